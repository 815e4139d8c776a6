"""Which scores of a tile are visible, and exact sums over visible pairs only.

Three things hide a pair: causality or a window (a first and an end key for each query), the sequence length,
and a mask. A partly hidden tile uses the fast product as long as the numbers are finite: a hidden score
becomes -inf, and its probability 0. If a row of v, k, q or do contains NaN or inf, 0 * NaN would spread it to
rows that do not attend to it. Then `add_visible_...` add over visible pairs only.
"""

from __future__ import annotations

from flashbench.codegen.atomics import publish
from flashbench.codegen.pointers import at, number_at
from flashbench.codegen.steps import step
from flashbench.kernels.call.masks import PARTLY, mask_shows
from flashbench.kernels.maths.rows import all_finite
from flashbench.kernels.tile.scores import put_whole

NO_LIMIT = 2**40  # keys left or right of the diagonal, on a side where the window has no limit


@step
def first_key(query, sequence, features):
    """The first key that the window lets a query attend to; seqlen_k if there is none."""
    return max(0, min(sequence.seqlen_k, query + sequence.diagonal - features.left))


@step
def end_key(query, sequence, features):
    """One past the last key that causality and window let a query attend to."""
    return max(0, min(sequence.seqlen_k, query + sequence.diagonal + features.right + 1))


@step
def hidden_from(queries, k_start, k_rows, features):
    """Index in the tile of the first key that causality or the window hides from some query; k_rows: none."""
    if k_start < first_key(queries.start + queries.rows - 1, queries.sequence, features):
        return 0
    return max(0, min(k_rows, end_key(queries.start, queries.sequence, features) - k_start))


@step
def has_limits(queries, features):
    """Whether causality or the window hides some key of the tile's range from some query."""
    keys = queries.end_key - queries.first_key
    return keys > 0 and hidden_from(queries, queries.first_key, keys, features) < keys


@step
def put_limits(scratch, queries, features):
    """Write the first and the end key of each query, for `hide_outside`. Padded lanes get all keys."""
    for r in range(queries.rows):
        put_whole(scratch.firsts, r, first_key(queries.start + r, queries.sequence, features))
        put_whole(scratch.ends, r, end_key(queries.start + r, queries.sequence, features))
    for r in range(queries.rows, queries.lanes):
        put_whole(scratch.firsts, r, 0)
        put_whole(scratch.ends, r, queries.sequence.seqlen_k)


@step
def hides_some(keys):
    """Whether any score of the tile is hidden."""
    return keys.hidden < keys.rows or keys.shown == PARTLY


@step
def sees(r, j, queries, keys, features):
    """Whether query r of the tile attends to key j of the tile."""
    query, key = queries.start + r, keys.start + j
    if key < first_key(query, queries.sequence, features):
        return False
    if key >= end_key(query, queries.sequence, features):
        return False
    return mask_shows(keys.mask, r, j, features)


@step
def add_visible_to_queries(p, queries, keys, x, sums, columns, features):
    """sums[r] += p[j, r] * x[j] over the keys j visible to query r: o += p v, or dq += ds k.

    sums: a `Sums`.
    """
    for r in range(queries.rows):
        for j in range(keys.rows):
            if sees(r, j, queries, keys, features):
                weight = at(p, j * queries.lanes + r)[0]
                for column in range(columns):
                    place = at(sums.at, r * sums.query + column * sums.column)
                    place[0] += weight * number_at(x.at, j * x.row + column)


@step
def add_visible_to_keys(p, queries, keys, x, sums, columns, features):
    """sums[j] += p[j, r] * x[r] over the queries r that attend to key j: dv += p^T do, or dk += ds^T q.

    sums: a `Matrix`.
    """
    for j in range(keys.rows):
        for r in range(queries.rows):
            if sees(r, j, queries, keys, features):
                weight = at(p, j * queries.lanes + r)[0]
                for column in range(columns):
                    at(sums.at, j * sums.row + column)[0] += weight * number_at(x.at, r * x.row + column)


@step
def all_finite_once(note, x, rows, columns):
    """Whether all of x is finite. The result is kept in the shared flag `note`, initially 0."""
    if note[0] == 0:
        publish(note, 1 if all_finite(x.at, x.row, rows, columns) else 2)
    return note[0] == 1


@step
def clear_sums(sums, queries, columns, zero):
    """Set the sums of a tile of queries to zero."""
    for r in range(queries):
        for column in range(columns):
            at(sums.at, r * sums.query + column * sums.column)[0] = zero


@step
def clear_rows(matrix, rows, columns, zero):
    """Set rows to zero."""
    for r in range(rows):
        for column in range(columns):
            at(matrix.at, r * matrix.row + column)[0] = zero
