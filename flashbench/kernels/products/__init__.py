"""Matrix products of a tile, one file for each kind of instruction.

A kernel is compiled for one `Product` and calls its steps by name. Between the products lies the tile of
scores, s[key, query lane], in the accumulator type. It is the same for every product, so features do not
depend on the product. To add one: a file here with a `Product`, and its line in the table of paths.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Matrix(NamedTuple):
    """Rows of contiguous elements. at: pointer to the first row; row: elements from one row to the next."""

    at: Any
    row: Any


class Product(NamedTuple):
    """The matrix products of attention by one kind of instruction. x, keys and sums: a `Matrix` each."""

    name: str
    # pack(x, rows, columns, packed, lanes, factor): packed = factor * x in the layout that `scores` reads.
    # x: a tile of q or do.
    pack: Any
    # scores(s, keys, packed, lanes, rows, depth): s[key, lane] = dot product of keys[key, :depth] and
    # packed[lane]. Used for s = k q^T and dp = v do^T.
    scores: Any
    # add_to_queries(p, lanes, x, sums, queries, columns, keys, add): sums[query] = sum over keys of
    # p[key, query] x[key]; += if `add`. Used for o += p v and dq += ds k.
    add_to_queries: Any
    # add_to_keys(p, lanes, x, sums, keys, columns, queries, add): sums[key] = sum over queries of
    # p[key, query] x[query]; += if `add`. Used for dv += p^T do and dk += ds^T q.
    add_to_keys: Any
