"""Which scores of a tile are visible, and the exact way through a tile that is partly hidden.

What hides them: causality and window (a first and an end key for each query), sequence lengths, a mask. A
tile that is partly hidden takes the fast way as long as its numbers are finite: a hidden score becomes -inf,
its probability 0. Otherwise 0 * NaN would carry a NaN or infinity to rows that do not see it.
"""

from __future__ import annotations

import math

from numba import njit

from flashbench.codegen.atomics import publish
from flashbench.codegen.pointers import at, pointer
from flashbench.kernels.call.features import (
    FLOAT_MASK,
    MASK,
    MASK_KEY,
    MASK_ROW,
    end_key,
    first_key,
    mask_shows,
)
from flashbench.kernels.tile.edit import all_finite
from flashbench.kernels.tile.masks import add_mask, clear_minus_inf, hide_masked
from flashbench.kernels.tile.scores import put_whole

LOG2E = math.log2(math.e)


@njit(nogil=True)
def put_limits(firsts, ends, q_start, q_rows, lanes, seqlen_k, diagonal, features):
    """The first and the end key of each query of a tile, for `hide_outside`; none for lanes without one."""
    for r in range(q_rows):
        put_whole(firsts, r, first_key(q_start + r, seqlen_k, diagonal, features))
        put_whole(ends, r, end_key(q_start + r, seqlen_k, diagonal, features))
    for r in range(q_rows, lanes):
        put_whole(firsts, r, 0)
        put_whole(ends, r, seqlen_k)


@njit(nogil=True)
def hidden_from(q_start, q_rows, k_start, k_rows, seqlen_k, diagonal, features):
    """The first key of the tile that some query of it does not see, by causality or window; k_rows: none."""
    if k_start < first_key(q_start + q_rows - 1, seqlen_k, diagonal, features):
        return 0
    return max(0, min(k_rows, end_key(q_start, seqlen_k, diagonal, features) - k_start))


@njit(nogil=True)
def apply_mask(s, k_rows, lanes, q_rows, mask, zero, byte, features):
    """Add the mask to a tile of scores, or hide by it."""
    by_query, by_key = features[MASK_ROW], features[MASK_KEY]
    if features[MASK] == FLOAT_MASK:
        add_mask(s, k_rows, lanes, q_rows, pointer(zero, mask), by_query, by_key, LOG2E)
    else:
        hide_masked(s, k_rows, lanes, q_rows, pointer(byte, mask), by_query, by_key, -math.inf)


@njit(nogil=True)
def clear_masked(tile, k_rows, lanes, q_rows, mask, zero, byte, features):
    """Zeros where the mask hides."""
    by_query, by_key = features[MASK_ROW], features[MASK_KEY]
    if features[MASK] == FLOAT_MASK:
        clear_minus_inf(tile, k_rows, lanes, q_rows, pointer(zero, mask), by_query, by_key)
    else:
        hide_masked(tile, k_rows, lanes, q_rows, pointer(byte, mask), by_query, by_key, zero)


@njit(nogil=True)
def sees(r, j, tile, zero, byte, features):
    """Whether query r of a tile sees its key j; tile: q_start, k_start, seqlen_k, diagonal, mask address."""
    q_start, k_start, seqlen_k, diagonal, mask = tile
    query, key = q_start + r, k_start + j
    if key < first_key(query, seqlen_k, diagonal, features):
        return False
    if key >= end_key(query, seqlen_k, diagonal, features):
        return False
    return mask_shows(mask, r, j, zero, byte, features)


@njit(nogil=True)
def add_seen_to_rows(p, lanes, tile, x, x_row, c, c_row, q_rows, columns, k_rows, zero, byte, features):
    """c[r] += sum of p[j, r] * x[j] over the keys j that query r sees: the product, where it would leak."""
    for r in range(q_rows):
        for j in range(k_rows):
            if sees(r, j, tile, zero, byte, features):
                weight = at(p, j * lanes + r)[0]
                for column in range(columns):
                    at(c, r * c_row + column)[0] += weight * at(x, j * x_row + column)[0]


@njit(nogil=True)
def add_seen_to_keys(p, lanes, tile, x, x_row, c, c_row, q_rows, columns, k_rows, zero, byte, features):
    """c[j] += sum of p[j, r] * x[r] over the queries r that see key j: the same for dk and dv."""
    for j in range(k_rows):
        for r in range(q_rows):
            if sees(r, j, tile, zero, byte, features):
                weight = at(p, j * lanes + r)[0]
                for column in range(columns):
                    at(c, j * c_row + column)[0] += weight * at(x, r * x_row + column)[0]


@njit(nogil=True)
def all_finite_once(flag, x, x_row, rows, columns):
    """Whether x is free of NaN and infinity, kept in `flag`, which is 0 at first, for whoever asks next."""
    if flag[0] == 0:
        publish(flag, 1 if all_finite(x, x_row, rows, columns) else 2)
    return flag[0] == 1


@njit(nogil=True)
def clear_rows(c, c_row, rows, columns, zero):
    for r in range(rows):
        for column in range(columns):
            at(c, r * c_row + column)[0] = zero
