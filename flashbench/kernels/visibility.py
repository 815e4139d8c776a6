"""Which scores of a tile are visible, and the exact way through a tile that is partly hidden.

A tile covers the queries from q_start and the keys from k_start on. `seen` says where the diagonal
crosses it: row r of the tile sees its keys j < seen + r.
"""

from __future__ import annotations

from numba import njit

from flashbench.kernels.memory import at
from flashbench.kernels.tiles import all_finite, hide_above_diagonal


@njit(nogil=True)
def keys_seen(query, seqlen_k, causal, diagonal):
    """How many keys a query sees: the first query + diagonal + 1 when causal, else all."""
    if causal:
        return max(0, min(seqlen_k, query + diagonal + 1))
    return seqlen_k


@njit(nogil=True)
def seen_by_first_row(q_start, k_start, k_rows, causal, diagonal):
    """`seen` of a tile; at least k_rows when nothing in it is hidden."""
    if causal:
        return q_start + diagonal + 1 - k_start
    return k_rows


@njit(nogil=True)
def hide(tile, lanes, seen, rows, value):
    """Put `value` where a query does not see a key, in a tile[key, query lane]."""
    first = max(0, seen)  # the keys before it are seen by every query
    hide_above_diagonal(at(tile, first * lanes), lanes, rows - first, lanes, first + 1 - seen, value)


@njit(nogil=True)
def hidden_finite(x, x_row, seen, rows, columns):
    """Whether the keys' rows of x that some query of the tile does not see are free of NaN and inf."""
    first = max(0, seen)
    return all_finite(at(x, first * x_row), x_row, rows - first, columns)


@njit(nogil=True)
def add_visible_to_rows(p, p_row, seen, x, x_row, c, c_row, rows, columns, depth):
    """c[r] += sum of p[j, r] * x[j] over the keys j that query r sees.

    Takes the product's place in a tile on the diagonal whose x holds a NaN or inf: the product would
    carry it, as 0 * NaN, into rows that do not see it.
    """
    for r in range(rows):
        for j in range(min(depth, seen + r)):
            weight = at(p, j * p_row + r)[0]
            for column in range(columns):
                at(c, r * c_row + column)[0] += weight * at(x, j * x_row + column)[0]


@njit(nogil=True)
def add_visible_to_keys(p, p_row, seen, x, x_row, c, c_row, rows, columns, depth):
    """c[j] += sum of p[j, r] * x[r] over the queries r that see key j: the same for dk and dv."""
    for j in range(rows):
        for r in range(max(0, j - seen + 1), depth):
            weight = at(p, j * p_row + r)[0]
            for column in range(columns):
                at(c, j * c_row + column)[0] += weight * at(x, r * x_row + column)[0]


@njit(nogil=True)
def clear_rows(c, c_row, rows, columns, zero):
    for r in range(rows):
        for column in range(columns):
            at(c, r * c_row + column)[0] = zero
