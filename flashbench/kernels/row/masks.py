"""Which keys a query sees, row by row: window and lengths as a range, a mask as a pass over the row.

And the exact way through a product whose other side holds a NaN or inf: over visible pairs alone, since
0 * NaN would carry it to rows that do not see it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import (
    BLOCK_MASK,
    BOOL_MASK,
    COLUMNS_AT,
    DIAGONAL,
    FLOAT_MASK,
    MASK,
    MASK_AT,
    MASK_BATCH,
    MASK_BLOCK_K,
    MASK_BLOCK_Q,
    MASK_HEAD,
    MASK_KEY,
    MASK_ROW,
    PARTS_AT,
    SEQLEN_K,
    SEQLEN_Q,
    STARTS_AT,
    STARTS_BATCH,
    STARTS_HEAD,
    end_key,
    first_key,
)
from flashbench.kernels.row.features import add_mask_row, clear_lowest_row, hide_row


@njit(nogil=True)
def visible_range(features, query, seqlen_k, diagonal):
    """(first, end) of the keys that window and lengths let a query see; first = end where none."""
    first = first_key(query, seqlen_k, diagonal, features)
    return first, max(first, end_key(query, seqlen_k, diagonal, features))


@njit(nogil=True)
def _entry(like, features, b, h, i, j):
    """Pointer to a dense mask's entry of a pair."""
    head = pointer(like, features[MASK_AT] + b * features[MASK_BATCH] + h * features[MASK_HEAD])
    return at(head, i * features[MASK_ROW] + j * features[MASK_KEY])


@njit(nogil=True)
def _blocks_of_row(features, b, h, i):
    """(first, end) of the places of the visible blocks in the row of blocks of query i."""
    address = features[STARTS_AT] + b * features[STARTS_BATCH] + h * features[STARTS_HEAD]
    starts = at(pointer(np.int64(0), address), i // features[MASK_BLOCK_Q])
    return starts[0], starts[1]


@njit(nogil=True)
def _block_start(features, place):
    """The first key of a visible block."""
    return pointer(np.int64(0), features[COLUMNS_AT])[place] * features[MASK_BLOCK_K]


@njit(nogil=True)
def _is_whole(features, place):
    return pointer(np.int64(0), features[PARTS_AT])[place] < 0


@njit(nogil=True)
def _block_entry(features, place, i, key):
    """Pointer to the entry of a pair in a block that is visible in part; key counted in the block."""
    part = pointer(np.int64(0), features[PARTS_AT])[place]
    row = part * features[MASK_BLOCK_Q] + i % features[MASK_BLOCK_Q]
    return at(pointer(np.uint8(0), features[MASK_AT]), row * features[MASK_BLOCK_K] + key)


@njit(nogil=True)
def _hide_blocks(row, features, b, h, i, first, end, value):
    places = _blocks_of_row(features, b, h, i)
    done = first
    for place in range(places[0], places[1]):
        k_start = _block_start(features, place)
        left, right = max(first, k_start), min(end, k_start + features[MASK_BLOCK_K])
        if right <= left:
            continue
        for j in range(done, left):
            at(row, j)[0] = value
        if not _is_whole(features, place):
            hide_row(at(row, left), _block_entry(features, place, i, left - k_start), 1, right - left, value)
        done = right
    for j in range(done, end):
        at(row, j)[0] = value


@njit(nogil=True)
def mask_scores(s, zero, features, b, h, i, first, end):
    """What a mask, if any, does to the scores s[first:end] of a row: added, or -inf where it hides."""
    kind = features[MASK]
    if kind == BOOL_MASK:
        entries = _entry(np.uint8(0), features, b, h, i, first)
        hide_row(at(s, first), entries, features[MASK_KEY], end - first, -math.inf)
    elif kind == FLOAT_MASK:
        entries = _entry(zero, features, b, h, i, first)
        add_mask_row(at(s, first), entries, features[MASK_KEY], end - first)
    elif kind == BLOCK_MASK:
        _hide_blocks(s, features, b, h, i, first, end, -math.inf)


@njit(nogil=True)
def clear_masked(x, zero, features, b, h, i, first, end):
    """Zeros in x[first:end] where a mask hides the pair, whatever was there."""
    kind = features[MASK]
    if kind == BOOL_MASK:
        entries = _entry(np.uint8(0), features, b, h, i, first)
        hide_row(at(x, first), entries, features[MASK_KEY], end - first, 0.0)
    elif kind == FLOAT_MASK:
        entries = _entry(zero, features, b, h, i, first)
        clear_lowest_row(at(x, first), entries, features[MASK_KEY], end - first)
    elif kind == BLOCK_MASK:
        _hide_blocks(x, features, b, h, i, first, end, 0.0)


@njit(nogil=True)
def mask_lets_see(zero, features, b, h, i, j):
    """Whether the mask, if any, lets query i see key j: for the few pairs that are looked at one by one."""
    kind = features[MASK]
    if kind == BOOL_MASK:
        return _entry(np.uint8(0), features, b, h, i, j)[0] != 0
    if kind == FLOAT_MASK:
        return _entry(zero, features, b, h, i, j)[0] != -math.inf
    if kind == BLOCK_MASK:
        key = j % features[MASK_BLOCK_K]
        places = _blocks_of_row(features, b, h, i)
        for place in range(places[0], places[1]):
            if _block_start(features, place) == j - key:
                return _is_whole(features, place) or _block_entry(features, place, i, key)[0] != 0
        return False
    return True


@njit(nogil=True)
def add_visible_keys(p, x, x_row, c, columns, zero, features, place):
    """c += sum of p[j] * x[j] over the keys j that a query sees: a row of o or dq.

    place: (its sequence's number, head, query, the sequence's row of the table).
    """
    b, h, i, sequence = place
    first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
    for j in range(first, end):
        if mask_lets_see(zero, features, b, h, i, j):
            for column in range(columns):
                at(c, column)[0] += at(p, j)[0] * at(x, j * x_row + column)[0]


@njit(nogil=True)
def add_visible_queries(p, p_row, x, x_row, c, columns, zero, features, place):
    """c += sum of p[i] * x[i] over the queries i that see a key: a row of dk or dv."""
    b, h, j, sequence = place
    for i in range(sequence[SEQLEN_Q]):
        first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
        if first <= j < end and mask_lets_see(zero, features, b, h, i, j):
            for column in range(columns):
                at(c, column)[0] += at(p, i * p_row)[0] * at(x, i * x_row + column)[0]
