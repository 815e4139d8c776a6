"""Matrix products of a tile, one file for each kind of instruction.

A kernel is compiled for one `Product` and calls its steps by name. Between the products lies the tile of
scores, s[key, query lane], in the accumulator type. It is the same for every product, so features do not
depend on the product. To add one: a file here with a `Product`, and its line in the table of paths.

A product chooses the layout of its operands. Each is made once per tile, from rows of arrays:

    s = k q^T     scores          keys(k), pack(q)          dp = v do^T    the same with v and do
    o += p v      add_to_queries  weights(p), values(v)     dq += ds k     weights(ds), turned(keys(k))
    dv += p^T do  add_to_keys     key_weights(p), queries(do)              dk += ds^T q
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Matrix(NamedTuple):
    """Rows of contiguous elements. at: pointer to the first row; row: elements from one row to the next."""

    at: Any
    row: Any


class Sums(NamedTuple):
    """Sums of a tile of queries, float32 or float64: o or dq while it grows. Strides in elements."""

    at: Any
    query: Any
    column: Any


class Product(NamedTuple):
    """The matrix products of attention by one kind of instruction.

    x: a `Matrix` of rows of the storage type. room: scratch for a copy of it, if the product needs one.
    lanes: queries of the tile, rounded up to whole vectors.
    """

    name: str
    # Whether `pack` leaves q as it is. Then scores and their gradients still need a factor: a product of
    # 16-bit operands would round q a second time if `pack` multiplied it.
    exact: bool
    # 16-bit numbers that an operand has for each number. Rooms are sized for float32: there is room for two.
    parts: int

    # State of the thread, if the instructions need any: begin() before the first step of a call, end() after
    # the last, with what begin() returned. No Python runs between them.
    begin: Any
    end: Any

    # Operands.
    # pack(x, rows, columns, packed, lanes, factor): packed = factor * x, for `scores`. x: rows of q or do.
    pack: Any
    # keys(x, rows, columns, room): the `Matrix` of rows of k or v that `scores` reads.
    keys: Any
    # values(x, rows, columns, room): the `Matrix` of rows of v that `add_to_queries` reads.
    values: Any
    # turned(keys, rows, columns, room): the same from what `keys` returned, for dq += ds k. With rows = 0,
    # these three return the `Matrix` of an operand that is in `room` already.
    turned: Any
    # weights(p, lanes, rows, room): p as `add_to_queries` reads it, made in `room`, which may be p itself
    # unless parts == 3.
    weights: Any
    # queries(x, rows, columns, room): the `Matrix` of rows of do or q that `add_to_keys` reads.
    queries: Any
    # key_weights(p, lanes, rows, room): p as `add_to_keys` reads it, made in `room`, which may be p itself if
    # parts == 1.
    key_weights: Any
    # gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms): for exact products, all weights of the
    # backward pass from scores (gradient_weights.py). Then `weights` and `key_weights` have no rows to make.
    gradient_weights: Any

    # Products.
    # scores(s, keys, packed, lanes, rows, depth): s[key, lane] = sum of keys[key, c] packed[c, lane].
    scores: Any
    # finish_scores(s, count, factor, needs_units): multiplies the tile by `factor` if `needs_units`. Returns
    # the factor that softmax must still multiply by; None if `pack` has done so.
    finish_scores: Any
    # exponentiate(s, rows, lanes, lane_state, factor, target): for exact products, p of some keys made from
    # their scores, as `weights` makes it, but in `target` (exponentiate.py). Returns whether row_max is too
    # small for them.
    exponentiate: Any
    # add_to_queries(w, lanes, x, sums, queries, columns, keys, add): sums[query] = sum over keys of
    # p[key, query] x[key]; += if `add`. Used for o += p v and dq += ds k.
    add_to_queries: Any
    # add_to_keys(w, lanes, x, sums, keys, columns, queries, add): sums[key] = sum over queries of
    # p[key, query] x[query]; += if `add`. sums: a `Matrix`. Used for dv += p^T do and dk += ds^T q.
    add_to_keys: Any

    # Sums of a tile of queries.
    # sums(room, lanes, columns): the `Sums` in scratch.
    sums: Any
    # scale(sums, queries, columns, factors): sums[query] *= factors[query].
    scale: Any
    # put(target, sums, queries, columns, factors): target[query] = factors[query] sums[query], rounded once.
    put: Any
