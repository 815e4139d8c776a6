"""Which keys a query sees, row by row: window and lengths as a range, a mask as a pass over the row.

And the exact way through a product whose other side holds a NaN or inf: over visible pairs alone, since
0 * NaN would carry it to rows that do not see it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from flashbench.kernels.feature_table import (
    BLOCK_COLUMNS,
    BLOCK_K,
    BLOCK_MASK,
    BLOCK_PARTIAL,
    BLOCK_PARTS,
    BLOCK_Q,
    BOOL_MASK,
    DIAGONAL,
    FLOAT_MASK,
    LEFT,
    MASK,
    MASK_BATCH,
    MASK_HEAD,
    MASK_KEY,
    MASK_KIND,
    MASK_QUERY,
    NO_MASK,
    RIGHT,
    SEQLEN_K,
    SEQLEN_Q,
)
from flashbench.kernels.matmul import multiply
from flashbench.kernels.memory import at, pointer
from flashbench.kernels.row_features import add_mask_row, clear_lowest_row, hide_row


@njit(nogil=True)
def visible_range(features, query, seqlen_k, diagonal):
    """(first, end) of the keys that window and lengths let a query see; first = end where none."""
    own = query + diagonal
    first = max(0, own - features[LEFT])
    end = min(seqlen_k, own + features[RIGHT] + 1)
    if end <= first:
        return 0, 0
    return first, end


@njit(nogil=True)
def _entry(like, features, b, h, i, j):
    """Pointer to the mask's entry of a pair."""
    place = (
        b * features[MASK_BATCH] + h * features[MASK_HEAD] + i * features[MASK_QUERY] + j * features[MASK_KEY]
    )
    return at(pointer(like, features[MASK]), place)


@njit(nogil=True)
def _blocks_of_row(features, b, h, i):
    """(first, end) of the places of the visible blocks in the row of blocks of query i."""
    starts = _entry(np.int64(0), features, b, h, i // features[BLOCK_Q], 0)
    return starts[0], starts[1]


@njit(nogil=True)
def _block_entry(features, place, i, key):
    """Pointer to the entry of a pair in a block that is visible in part; key counted in the block."""
    part = at(pointer(np.int64(0), features[BLOCK_PARTS]), place)[0]
    row = part * features[BLOCK_Q] + i % features[BLOCK_Q]
    return at(pointer(np.uint8(0), features[BLOCK_PARTIAL]), row * features[BLOCK_K] + key)


@njit(nogil=True)
def _block_column(features, place):
    return at(pointer(np.int64(0), features[BLOCK_COLUMNS]), place)[0]


@njit(nogil=True)
def _is_whole(features, place):
    return at(pointer(np.int64(0), features[BLOCK_PARTS]), place)[0] < 0


@njit(nogil=True)
def _hide_blocks(row, features, b, h, i, first, end, value):
    block_k = features[BLOCK_K]
    places = _blocks_of_row(features, b, h, i)
    done = first
    for place in range(places[0], places[1]):
        k_start = _block_column(features, place) * block_k
        left, right = max(first, k_start), min(end, k_start + block_k)
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
    kind = features[MASK_KIND]
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
    kind = features[MASK_KIND]
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
    kind = features[MASK_KIND]
    if kind == BOOL_MASK:
        return _entry(np.uint8(0), features, b, h, i, j)[0] != 0
    if kind == FLOAT_MASK:
        return _entry(zero, features, b, h, i, j)[0] != -math.inf
    if kind == BLOCK_MASK:
        column, key = j // features[BLOCK_K], j % features[BLOCK_K]
        places = _blocks_of_row(features, b, h, i)
        for place in range(places[0], places[1]):
            if _block_column(features, place) == column:
                return _is_whole(features, place) or _block_entry(features, place, i, key)[0] != 0
        return False
    return True


@njit(nogil=True)
def sees_any(zero, features, b, h, i, first, end):
    """Whether a query sees any of the keys from first to end."""
    if features[MASK_KIND] == NO_MASK:
        return first < end
    for j in range(first, end):
        if mask_lets_see(zero, features, b, h, i, j):
            return True
    return False


@njit(nogil=True)
def add_visible_keys(p, x, x_row, c, columns, zero, features, place):
    """c += sum of p[j] * x[j] over the keys j that a query sees: a row of o or dq.

    place: (its sequence's number, head, query, the sequence's row of the table).
    """
    b, h, i, sequence = place
    first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
    for j in range(first, end):
        if mask_lets_see(zero, features, b, h, i, j):
            multiply(at(p, j), 1, 1, at(x, j * x_row), x_row, c, columns, 1, columns, 1, True)


@njit(nogil=True)
def add_visible_queries(p, p_row, x, x_row, c, columns, zero, features, place):
    """c += sum of p[i] * x[i] over the queries i that see a key: a row of dk or dv."""
    b, h, j, sequence = place
    for i in range(sequence[SEQLEN_Q]):
        first, end = visible_range(features, i, sequence[SEQLEN_K], sequence[DIAGONAL])
        if first <= j < end and mask_lets_see(zero, features, b, h, i, j):
            multiply(at(p, i * p_row), 1, 1, at(x, i * x_row), x_row, c, columns, 1, columns, 1, True)
