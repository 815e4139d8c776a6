"""Matrix products of a tile, one file for each way that instruction sets offer.

A kernel takes a `Product` that is known when it is compiled, and calls its steps by name. Between them lies
the tile of scores, s[key, query lane] in numbers of the accumulator type, the same for every product:
features never learn which one ran. To add a way: a file here with a `Product`, and its line in the table of
paths.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Matrix(NamedTuple):
    """Rows of contiguous elements, `row` elements apart."""

    at: Any
    row: Any


class Product(NamedTuple):
    """The products of attention by one kind of instruction. Matrices are rows side by side (`Matrix`)."""

    name: str
    # pack(x, rows, columns, packed, lanes, factor): a tile of q or do, times a factor, as `scores` reads it.
    pack: Any
    # scores(s, keys, packed, lanes, rows, depth): s[key, lane] = sum of keys[key, :depth] and packed[lane].
    # s = k q^T, and dp = v do^T.
    scores: Any
    # add_to_queries(p, lanes, x, sums, queries, columns, keys, add): sums[query] = (or +=, where `add`) the
    # sum of p[key, query] x[key]. o += p v, and dq += ds k.
    add_to_queries: Any
    # add_to_keys(p, lanes, x, sums, keys, columns, queries, add): sums[key] = (or +=) the sum of
    # p[key, query] x[query]. dv += p^T do, and dk += ds^T q.
    add_to_keys: Any
