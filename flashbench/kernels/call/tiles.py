"""Split queries and keys into tiles: from the number of a task to its tile, and the keys of that tile."""

from __future__ import annotations

from typing import Any, NamedTuple

from flashbench.codegen.steps import step
from flashbench.codegen.structs import lane_step
from flashbench.kernels.call.arrays import sequence_at
from flashbench.kernels.call.features import blocks_of_row
from flashbench.kernels.call.masks import BLOCK_MASK, HIDDEN, mask_address, mask_on_tile
from flashbench.kernels.call.structs import Keys, Queries
from flashbench.kernels.call.visibility import end_key, first_key, hidden_from


@step
def sequence_of(call, task, tasks_per_tile):
    """The index of the sequence of a task, by binary search: tasks are numbered by sequence."""
    low, high = 0, call.work.sequence_count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if sequence_at(call, middle).tiles_before * tasks_per_tile <= task:
            low = middle
        else:
            high = middle - 1
    return low


@step
def whole_vectors(call, rows):
    """`rows` rounded up to whole lanes of a tile."""
    lanes = lane_step(call)
    return (rows + lanes - 1) // lanes * lanes


@step
def tiles_of(call, sequence):
    """Tiles of queries per head of a sequence. No tile crosses from one row of mask blocks to the next."""
    block_q = call.sizes.block_q
    if call.features.mask == BLOCK_MASK:
        mask_block = call.features.mask_block_q
        return (sequence.seqlen_q + mask_block - 1) // mask_block * ((mask_block + block_q - 1) // block_q)
    return (sequence.seqlen_q + block_q - 1) // block_q


@step
def tile_rows(call, sequence, tile):
    """(first query, number of queries) of a tile. The number can be 0."""
    block_q = call.sizes.block_q
    if call.features.mask == BLOCK_MASK:
        mask_block = call.features.mask_block_q
        per_block = (mask_block + block_q - 1) // block_q
        start = tile // per_block * mask_block + tile % per_block * block_q
        end = min(sequence.seqlen_q, (tile // per_block + 1) * mask_block)
        return start, max(0, min(block_q, end - start))
    return tile * block_q, min(block_q, sequence.seqlen_q - tile * block_q)


@step
def tile_at(call, b, h, start, rows):
    """The tile of queries start to start + rows - 1, of head h of sequence b."""
    sequence = sequence_at(call, b)
    first = first_key(start, sequence, call.features)
    end = end_key(start + rows - 1, sequence, call.features) if rows else 0
    return Queries(sequence, b, h, start, rows, whole_vectors(call, rows), first, end)


@step
def tile_by_number(call, b, h, tile):
    """Tile number `tile` of a sequence, counted from the end.

    With causality the last queries have the most keys. They go first, so that the last tasks are short and
    all threads finish at about the same time.
    """
    sequence = sequence_at(call, b)
    start, rows = tile_rows(call, sequence, tiles_of(call, sequence) - 1 - tile)
    return tile_at(call, b, h, start, rows)


@step
def key_blocks(queries, features):
    """(first, end): the range of the tile's blocks in the block mask's lists; (0, 1) without a block mask."""
    if features.mask != BLOCK_MASK:
        return 0, 1
    return blocks_of_row(queries.b, queries.h, queries.start, features)


@step
def key_span(block, queries, features):
    """(first, end): the keys of one block that the queries may attend to."""
    if features.mask != BLOCK_MASK:
        return queries.first_key, queries.end_key
    start = features.columns[block] * features.mask_block_k
    return max(queries.first_key, start), min(queries.end_key, start + features.mask_block_k)


class Cursor(NamedTuple):
    """The place among a tile of queries' keys: a block of the block mask, and its keys from `start` on."""

    block: Any
    last_block: Any
    start: Any
    end: Any


@step
def first_cursor(queries, features):
    """The cursor before the first key. A block mask lists visible blocks; else all keys are one block."""
    block, last_block = key_blocks(queries, features)
    if block >= last_block:
        return Cursor(block, last_block, 0, 0)
    start, end = key_span(block, queries, features)
    return Cursor(block, last_block, start, end)


@step
def next_keys(call, queries, cursor):
    """(the next tile of keys that is not hidden, the cursor after it). After the last tile, rows is 0."""
    block, last_block, start, end = cursor
    while block < last_block:
        while start < end:
            keys = keys_at(call, queries, block, start, end)
            start += keys.rows
            if keys.shown != HIDDEN:
                return keys, Cursor(block, last_block, start, end)
        block += 1
        if block < last_block:
            start, end = key_span(block, queries, call.features)
    return Keys(0, 0, 0, HIDDEN, 0), Cursor(block, last_block, 0, 0)


@step
def keys_at(call, queries, block, start, end):
    """The tile of up to block_k keys of one block, from `start` on and before `end`."""
    features = call.features
    rows = min(call.sizes.block_k, end - start)
    mask = mask_address(queries.b, queries.h, block, queries.start, start, features)
    shown = mask_on_tile(mask, queries.rows, rows, features)
    hidden = hidden_from(queries, start, rows, features)
    return Keys(start, rows, mask, shown, hidden)
