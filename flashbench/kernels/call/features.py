"""How a kernel is told which optional features are on, and where their arrays lie.

One int64 array for all, and one of the arrays' dtype for the numbers: they are looked at tile by tile, not
score by score, so that one machine code serves every combination and a feature that is off costs a branch.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.tile.masks import bytes_seen, floats_seen

NO_LIMIT = 2**40  # keys to the left or right that a window without a limit lets through

# Columns of the table of sequences, in rows.
BATCH_INDEX, FIRST_QUERY, FIRST_KEY, SEQLEN_Q, SEQLEN_K, DIAGONAL, TILES_BEFORE, SEQUENCE_COLUMNS = range(8)

# Places in the array of whole numbers. Strides are in bytes by batch and head, in elements by row and key.
(
    LEFT,
    RIGHT,
    SOFTCAP,
    ALIBI,
    SINKS,
    MASK,
    DROPOUT,
    SLOPES_AT,
    SLOPES_BATCH,
    SLOPES_HEAD,
    SINKS_AT,
    SINKS_HEAD,
    MASK_AT,
    MASK_BATCH,
    MASK_HEAD,
    MASK_ROW,
    MASK_KEY,
    MASK_SIZE,  # bytes of an entry
    STARTS_AT,  # of a block mask: where each row of blocks begins in the lists below
    STARTS_BATCH,
    STARTS_HEAD,
    COLUMNS_AT,
    PARTS_AT,
    MASK_BLOCK_Q,
    MASK_BLOCK_K,
    SEED,
    THRESHOLD,
    PAGE_SIZE,  # of paged keys; 0: they are not
    PAGES_AT,
    PAGES_BATCH,
    FEATURE_PLACES,
) = range(31)
NO_MASK, BOOL_MASK, FLOAT_MASK, BLOCK_MASK = range(4)

# Places in the array of numbers.
Q_FACTOR = 0  # what the packing of q multiplies by: scores come in units of log2, or of the softcap
CAP = 1  # softcap * log2(e)
KEEP_FACTOR = 2  # 1 / (1 - dropout)
NUMBER_PLACES = 3

# What a mask does to a tile.
HIDDEN, PARTLY, SEEN = range(3)


@njit(nogil=True)
def sequence_of(sequences, task, tasks_per_tile):
    """The sequence that a task belongs to, tasks being numbered sequence by sequence."""
    low, high = 0, len(sequences) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if sequences[middle, TILES_BEFORE] * tasks_per_tile <= task:
            low = middle
        else:
            high = middle - 1
    return low


@njit(nogil=True)
def tiles_of(seqlen_q, block_q, features):
    """Tiles of queries of a sequence; none crosses from one row of a mask's blocks to the next."""
    if features[MASK] == BLOCK_MASK:
        mask_block = features[MASK_BLOCK_Q]
        return (seqlen_q + mask_block - 1) // mask_block * ((mask_block + block_q - 1) // block_q)
    return (seqlen_q + block_q - 1) // block_q


@njit(nogil=True)
def tile_rows(tile, seqlen_q, block_q, features):
    """(first query, queries) of a tile; there may be none in it."""
    if features[MASK] == BLOCK_MASK:
        mask_block = features[MASK_BLOCK_Q]
        per_block = (mask_block + block_q - 1) // block_q
        q_start = tile // per_block * mask_block + tile % per_block * block_q
        end = min(seqlen_q, (tile // per_block + 1) * mask_block)
        return q_start, max(0, min(block_q, end - q_start))
    return tile * block_q, min(block_q, seqlen_q - tile * block_q)


@njit(nogil=True)
def first_key(query, seqlen_k, diagonal, features):
    """The first key that a query may see by the window: seqlen_k if there is none."""
    return max(0, min(seqlen_k, query + diagonal - features[LEFT]))


@njit(nogil=True)
def end_key(query, seqlen_k, diagonal, features):
    """One past the last key that a query may see by causality and window."""
    return max(0, min(seqlen_k, query + diagonal + features[RIGHT] + 1))


@njit(nogil=True)
def key_blocks(b, h, q_start, features, slot):
    """(first, end): the places of a row of a mask's blocks in its lists; (0, 1) without a block mask."""
    if features[MASK] != BLOCK_MASK:
        return 0, 1
    address = features[STARTS_AT] + b * features[STARTS_BATCH] + h * features[STARTS_HEAD]
    starts = at(pointer(slot, address), q_start // features[MASK_BLOCK_Q])
    return starts[0], starts[1]


@njit(nogil=True)
def key_span(block, k_first, k_end, features, slot):
    """(first, end): the keys of one of those blocks, between k_first and k_end."""
    if features[MASK] != BLOCK_MASK:
        return k_first, k_end
    start = pointer(slot, features[COLUMNS_AT])[block] * features[MASK_BLOCK_K]
    return max(k_first, start), min(k_end, start + features[MASK_BLOCK_K])


@njit(nogil=True)
def mask_address(b, h, block, q_start, k_start, features, slot):
    """Where the mask's entries for the tile begin; 0 where a block mask shows all of it."""
    if features[MASK] == BLOCK_MASK:
        part = pointer(slot, features[PARTS_AT])[block]
        if part < 0:
            return 0
        block_q, block_k = features[MASK_BLOCK_Q], features[MASK_BLOCK_K]
        return features[MASK_AT] + (part * block_q + q_start % block_q) * block_k + k_start % block_k
    place = q_start * features[MASK_ROW] + k_start * features[MASK_KEY]
    return (
        features[MASK_AT] + b * features[MASK_BATCH] + h * features[MASK_HEAD] + place * features[MASK_SIZE]
    )


@njit(nogil=True)
def mask_on_tile(address, q_rows, k_rows, zero, byte, features):
    """HIDDEN, PARTLY or SEEN: how much of the tile the mask lets through."""
    if features[MASK] == NO_MASK or address == 0:
        return SEEN
    by_query, by_key = features[MASK_ROW], features[MASK_KEY]
    rows = 1 if by_query == 0 else q_rows
    state = HIDDEN
    for row in range(rows):  # up to the first that settles it, as a mask is long to read
        if features[MASK] == FLOAT_MASK:
            shown = floats_seen(at(pointer(zero, address), row * by_query), k_rows, by_key)
        else:
            shown = bytes_seen(at(pointer(byte, address), row * by_query), k_rows, by_key)
        if shown == PARTLY or (row > 0 and shown != state):
            return PARTLY
        state = shown
    return state


@njit(nogil=True)
def mask_shows(address, query, key, zero, byte, features):
    """Whether the mask lets query `query` of the tile see its key `key`."""
    if features[MASK] == NO_MASK or address == 0:
        return True
    place = query * features[MASK_ROW] + key * features[MASK_KEY]
    if features[MASK] == FLOAT_MASK:
        return pointer(zero, address)[place] != -math.inf
    return pointer(byte, address)[place] != 0
