"""Which scores of a tile are visible, and the exact way through a tile that is partly hidden.

A tile covers the queries from q_start and the keys from k_start on. `seen` says where the diagonal
crosses it: row r of the tile sees its keys j < seen + r.
"""

from __future__ import annotations

from numba import njit

from flashbench.kernels.memory import at


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
