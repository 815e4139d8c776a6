"""Which scores of a tile are visible, and the exact way through a tile that is partly hidden.

What hides them: causality and window (a first and an end key for each query), sequence lengths, a mask. A
tile that is partly hidden takes the fast way as long as its numbers are finite: a hidden score becomes -inf,
its probability 0. Otherwise 0 * NaN would carry a NaN or infinity to rows that do not see it.
"""

from __future__ import annotations

from flashbench.codegen.atomics import publish
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.call.masks import PARTLY, mask_shows
from flashbench.kernels.tile.edit import all_finite
from flashbench.kernels.tile.scores import put_whole

NO_LIMIT = 2**40  # keys to the left or right of a query, where a window has no limit


@step
def first_key(query, sequence, features):
    """The first key that a query may see by the window: seqlen_k if there is none."""
    return max(0, min(sequence.seqlen_k, query + sequence.diagonal - features.left))


@step
def end_key(query, sequence, features):
    """One past the last key that a query may see by causality and window."""
    return max(0, min(sequence.seqlen_k, query + sequence.diagonal + features.right + 1))


@step
def hidden_from(queries, k_start, k_rows, features):
    """The first of k_rows keys that causality or the window hides from some query; k_rows: none."""
    if k_start < first_key(queries.start + queries.rows - 1, queries.sequence, features):
        return 0
    return max(0, min(k_rows, end_key(queries.start, queries.sequence, features) - k_start))


@step
def has_limits(queries, features):
    """Whether causality or the window hides any key of the queries' range from one of them."""
    keys = queries.end_key - queries.first_key
    return keys > 0 and hidden_from(queries, queries.first_key, keys, features) < keys


@step
def put_limits(scratch, queries, features):
    """The first and the end key of each query, for `hide_outside`; lanes without a query see all keys."""
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
    """Whether query r of its tile sees key j of its own."""
    query, key = queries.start + r, keys.start + j
    if key < first_key(query, queries.sequence, features):
        return False
    if key >= end_key(query, queries.sequence, features):
        return False
    return mask_shows(keys.mask, r, j, features)


@step
def add_visible_to_queries(p, queries, keys, x, sums, columns, features):
    """sums[r] += p[j, r] * x[j] over the keys j that query r sees: the product, where it would leak."""
    for r in range(queries.rows):
        for j in range(keys.rows):
            if sees(r, j, queries, keys, features):
                weight = at(p, j * queries.lanes + r)[0]
                for column in range(columns):
                    at(sums.at, r * sums.row + column)[0] += weight * at(x.at, j * x.row + column)[0]


@step
def add_visible_to_keys(p, queries, keys, x, sums, columns, features):
    """sums[j] += p[j, r] * x[r] over the queries r that see key j: the same for dk and dv."""
    for j in range(keys.rows):
        for r in range(queries.rows):
            if sees(r, j, queries, keys, features):
                weight = at(p, j * queries.lanes + r)[0]
                for column in range(columns):
                    at(sums.at, j * sums.row + column)[0] += weight * at(x.at, r * x.row + column)[0]


@step
def all_finite_once(note, x, rows, columns):
    """Whether x is free of NaN and infinity, kept in `note`, which is 0 at first, for the next who asks."""
    if note[0] == 0:
        publish(note, 1 if all_finite(x.at, x.row, rows, columns) else 2)
    return note[0] == 1


@step
def clear_rows(matrix, rows, columns, zero):
    """Rows of zeros."""
    for r in range(rows):
        for column in range(columns):
            at(matrix.at, r * matrix.row + column)[0] = zero
