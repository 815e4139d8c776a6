"""Decoding, few queries against many keys: the keys are split over tasks, and K and V are read once.

Flash-Decoding (Dao et al. 2023). A task is a part of the keys of one key/value head, for a chunk of the
queries of all heads that share it (GQA). So K and V are read once for all these heads. Each part has its own
row_max, row_sum and o. The thread that finishes a head's last part merges them (merge.py). Keys may lie in
pages, which a block table lists.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from flashbench.codegen.atomics import take_ticket
from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import address_in, at, pointer, prefetch_rows
from flashbench.codegen.steps import step
from flashbench.codegen.structs import view
from flashbench.dtypes import Dtype
from flashbench.kernels.call.arrays import rows_at, sequence_at, thread_scratch
from flashbench.kernels.call.features import slope_of
from flashbench.kernels.call.masks import ALL, NO_MASK, PARTLY, apply_mask, mask_address
from flashbench.kernels.call.structs import Array, Features, Keys, Numbers, Pages, Queries, Sizes, Work
from flashbench.kernels.call.tiles import sequence_of
from flashbench.kernels.call.visibility import (
    add_visible_to_queries,
    clear_sums,
    end_key,
    first_key,
    hidden_from,
    hides_some,
)
from flashbench.kernels.flash.merge import KeyPart, Split, finish_part, splits_of
from flashbench.kernels.flash.scratch import DECODE, room_of_v
from flashbench.kernels.flash.tile_steps import start_of_row
from flashbench.kernels.maths.dots import QUERIES, dot_products
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.kernels.maths.rows import all_finite, fill, put_multiple
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.tile.scores import add_alibi, cap_scores, hide_outside, put_whole
from flashbench.kernels.tile.softmax import online_softmax

FEW = 8  # up to this many rows, dot products are faster than a product with queries as lanes
_PIECE = 32  # keys per piece of o += p @ v
_FETCHED = 6  # keys of the next tile that each piece prefetches
_PIECES = 4  # pieces of a tile that prefetch


class DecodeCall(NamedTuple):
    """The arguments of one call, shared by its threads.

    work.tickets: one counter per task, of which that of a head's first part counts the head's finished parts.
    Then a counter for each thread's range of tasks.
    """

    q: Array
    k: Array
    v: Array
    o: Array
    lse: Numbers
    scratch: DECODE.cells  # type: ignore[name-defined]
    split: Split
    pages: Pages
    sizes: Sizes
    work: Work
    features: Features


@functools.cache
def flash_decode(product: Product, dtype: Dtype) -> Any:
    """The compiled kernel. Arguments: see `flash_forward`; address: of a `DecodeCall`.

    The product must read p as it is, and rows of v in place: `fma`, or `convert` for 16-bit floats.
    """
    storage, number = element_types(dtype)

    def flash_decode(address, slot):
        work_on_parts(product, view(DecodeCall, storage, number, address), slot)

    return compiled(flash_decode, variant=f"{product.name}.{dtype}")


@step
def work_on_parts(product, call, slot):
    """Take the tasks of this thread's own range, then those that are left of the others' ranges.

    A range is of neighbouring heads, and the same in each step. So a core's caches may hold keys and values
    that its thread read last, or that the operator wrote which appended a token.
    """
    scratch = thread_scratch(call, slot)
    threads, tasks = call.work.threads, call.work.tasks
    for turn in range(threads):
        owner = (slot + turn) % threads
        first, end = owner * tasks // threads, (owner + 1) * tasks // threads
        counter = at(call.work.tickets, tasks + owner)
        while True:
            task = first + take_ticket(counter)
            if task >= end:
                break
            part = part_of(call, task)
            begin(product, call, scratch, part)
            attend_part(product, call, scratch, part)
            finish_part(product, call, scratch, part)


@step
def part_of(call, task):
    """The part of the keys and the chunk of queries of a task."""
    b = sequence_of(call, task, call.sizes.num_kv_heads)
    sequence, chunk = sequence_at(call, b), call.split.chunk
    chunks = (sequence.seqlen_q + chunk - 1) // chunk
    splits = splits_of(sequence.seqlen_k, call.split.part_keys)
    inner = task - sequence.tiles_before * call.sizes.num_kv_heads
    kv, number = inner // (chunks * splits), inner % splits
    start = inner // splits % chunks * chunk
    rows = min(chunk, sequence.seqlen_q - start)
    first = max(number * call.split.part_keys, first_key(start, sequence, call.features))
    end = min((number + 1) * call.split.part_keys, end_key(start + rows - 1, sequence, call.features))
    h = kv * call.sizes.group
    o = Sums(at(call.split.parts, task * call.split.part_numbers), call.sizes.head_dim_v, 1)
    return KeyPart(
        Queries(sequence, b, h, start, rows, call.split.lanes, first, end), kv, task, number, splits, o
    )


@step
def begin(product, call, scratch, part):
    """Set the initial state of each lane and pack q. Lane g * chunk + i is query i of the group's head g."""
    for lane in range(call.split.lanes):
        begin_lane(call, scratch, part, lane)
    if call.split.rows > FEW:
        q = Matrix(scratch.q, call.sizes.head_dim)
        product.pack(q, call.split.lanes, call.sizes.head_dim, scratch.qt, call.split.lanes, call.zero + 1)


@step
def begin_lane(call, scratch, part, lane):
    features, queries, head_dim = call.features, part.queries, call.sizes.head_dim
    sequence = queries.sequence
    g, i = lane // call.split.chunk, lane % call.split.chunk
    is_query = g < call.sizes.group and i < queries.rows
    h = queries.h + min(g, call.sizes.group - 1)
    query = queries.start + i
    if is_query:
        q = rows_at(call.q, sequence.batch, h, sequence.first_query + query)
        put_multiple(at(scratch.q, lane * head_dim), q.at, head_dim, features.q_factor)
    else:
        fill(at(scratch.q, lane * head_dim), head_dim, call.zero)
    at(scratch.row_max, lane)[0], at(scratch.row_sum, lane)[0] = -math.inf, call.zero
    if part.number == 0:
        at(scratch.row_max, lane)[0], at(scratch.row_sum, lane)[0] = start_of_row(features, h)
    put_whole(scratch.firsts, lane, first_key(query, sequence, features) if is_query else 0)
    put_whole(scratch.ends, lane, end_key(query, sequence, features) if is_query else sequence.seqlen_k)
    if features.alibi:
        at(scratch.positions, lane)[0] = query + sequence.diagonal
        at(scratch.slopes, lane)[0] = -slope_of(features, queries.b, h) * LOG2E


@step
def attend_part(product, call, scratch, part):
    """Compute the part's unnormalised o, and row_max and row_sum over its own keys."""
    queries, block_k = part.queries, call.sizes.block_k
    first, end = queries.first_key, queries.end_key
    if call.split.rows <= FEW:  # dot products do not write lanes without a query: clear these
        fill(scratch.s, min(block_k, max(0, end - first)) * queries.lanes, call.zero)
    for start in range(first, end, block_k):
        rows = min(block_k, end - start)
        shown = ALL if call.features.mask == NO_MASK else PARTLY
        keys = Keys(start, rows, 0, shown, hidden_from(queries, start, rows, call.features))
        put_scores(product, call, scratch, part, keys)
        apply_features(call, scratch, part, keys)
        # s becomes p = exp2(s - row_max). If row_max grows, rescale o to the new maximum.
        lanes = queries.lanes
        lane_state = scratch.row_max, scratch.row_sum, scratch.rescale
        grew = online_softmax(scratch.s, lanes, rows, lanes, lane_state, None)
        if grew and start > first:
            product.scale(part.o, call.split.rows, call.sizes.head_dim_v, scratch.rescale)
        add_values(product, call, scratch, part, keys, start > first)
    if first >= end:
        clear_sums(part.o, call.split.rows, call.sizes.head_dim_v, call.zero)


@step
def rows_together(call, array, part, key, keys):
    """(rows of `array` from `key` on, how many of the next `keys` keys lie in the same page).

    Without pages, all of them.
    """
    sequence, pages = part.queries.sequence, call.pages
    batch, row = sequence.batch, sequence.first_key + key
    if pages.size != 0:
        table = pointer(0, pages.table + part.queries.b * pages.batch)
        batch, row = table[key // pages.size], key % pages.size
        keys = min(keys, pages.size - row)
    return rows_at(array, batch, part.kv, row), keys


@step
def put_scores(product, call, scratch, part, keys):
    """Scores in log2 units, page by page. The dot products also prefetch v of their keys."""
    lanes, head_dim = part.queries.lanes, call.sizes.head_dim
    done = 0
    while done < keys.rows:
        key = keys.start + done
        k, room = rows_together(call, call.k, part, key, part.queries.end_key - key)
        count = min(room, keys.rows - done)
        s = at(scratch.s, done * lanes)
        if call.split.rows <= FEW:
            v, _ = rows_together(call, call.v, part, key, count)
            padded_rows = (call.split.rows + QUERIES - 1) // QUERIES * QUERIES
            dot_products(k, count, Matrix(scratch.q, head_dim), padded_rows, s, lanes, head_dim, v, room)
        else:
            k_tile = product.keys(k, count, head_dim, scratch.rows)
            product.scores(s, k_tile, scratch.qt, lanes, count, head_dim)
        done += count


@step
def apply_features(call, scratch, part, keys):
    """Apply softcap, ALiBi and masks to the scores; -inf where a pair is hidden."""
    features, queries, s = call.features, part.queries, scratch.s
    if features.cap != 0:
        cap_scores(s, keys.rows * queries.lanes, features.cap, pointer(call.zero, 0))
    if features.alibi:
        add_alibi(s, keys.rows, queries.lanes, keys.start, scratch.positions, scratch.slopes)
    if features.mask != NO_MASK:
        for g in range(call.sizes.group):
            mask = mask_address(queries.b, queries.h + g, 0, queries.start, keys.start, features)
            lanes = at(s, g * call.split.chunk)
            apply_mask(lanes, keys.rows, queries.lanes, queries.rows, mask, features)
    if keys.hidden < keys.rows:
        hide_outside(s, keys.rows, queries.lanes, keys.start, scratch.firsts, scratch.ends, -math.inf)


@step
def add_values(product, call, scratch, part, keys, begun):
    """o += p @ v, piece by piece. Memory would be idle here, so prefetch the first keys of the next tile."""
    columns, lanes = call.sizes.head_dim_v, part.queries.lanes
    done = 0
    while done < keys.rows:
        v, count = rows_together(call, call.v, part, keys.start + done, min(_PIECE, keys.rows - done))
        if done < _PIECE * _PIECES:
            fetch_keys(call, part, keys.start + keys.rows + done // _PIECE * _FETCHED)
        p = at(scratch.s, done * lanes)
        if hides_some(keys) and not all_finite(v.at, v.row, count, columns):
            if not begun:
                clear_sums(part.o, call.split.rows, columns, call.zero)
            add_visible_values(call, part, p, v, keys.start + done, count)
        elif call.split.rows <= FEW:  # 16-bit floats are widened in registers
            product.add_to_queries(p, lanes, v, part.o, call.split.rows, columns, count, begun)
        else:
            v_tile = product.values(v, count, columns, room_of_v(product, call, scratch))
            product.add_to_queries(p, lanes, v_tile, part.o, call.split.rows, columns, count, begun)
        begun = True
        done += count


@step
def fetch_keys(call, part, key):
    """Prefetch up to _FETCHED keys from `key` on, none beyond the part's end."""
    end = part.queries.end_key
    if key < end:
        k, count = rows_together(call, call.k, part, key, min(_FETCHED, end - key))
        itemsize = call.split.storage_bytes
        prefetch_rows(address_in(k.at), count, k.row * itemsize, call.sizes.head_dim * itemsize)


@step
def add_visible_values(call, part, p, v, start, count):
    """o += p @ v over visible pairs only: for a v with NaN or inf, as the product would add 0 * NaN."""
    queries, chunk = part.queries, call.split.chunk
    for g in range(call.sizes.group):
        mask = mask_address(queries.b, queries.h + g, 0, queries.start, start, call.features)
        keys = Keys(start, count, mask, PARTLY, 0)
        o = Sums(at(part.o.at, g * chunk * part.o.query), part.o.query, 1)
        add_visible_to_queries(at(p, g * chunk), queries, keys, v, o, call.sizes.head_dim_v, call.features)
