"""Scores of few queries: dot products along head_dim. Each key is read once, in vectors, for all queries.

The product in products/multiply.py has queries as lanes and broadcasts each number of a key. With few queries
most lanes would be idle, and these scalar loads, not memory, would be the limit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import body_by_elements
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    round_down,
    signature_name,
    store,
)
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import prefetch

KEYS = 4  # keys per iteration
AHEAD = 8  # keys to prefetch ahead: two iterations
# Queries per iteration: the sum of each (key, query) pair stays in one of 16 or 32 registers.
QUERIES = 4 if ISA.max_vectors >= 4 else 2


def _sums(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """The sum of each vector's lanes, in the order of the vectors, packed into vectors of the same width."""
    lanes = vectors[0].type.count
    indices = ir.VectorType(ir.IntType(32), lanes)
    half = 1
    while half < lanes:
        # Merge two vectors into one: lanes with bit `half` come from the second; each adds its partner lane.
        low = ir.Constant(indices, [i if not i & half else lanes + i - half for i in range(lanes)])
        high = ir.Constant(indices, [i + half if not i & half else lanes + i for i in range(lanes)])
        pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
        vectors = [b.fadd(b.shuffle_vector(x, y, low), b.shuffle_vector(x, y, high)) for x, y in pairs]
        half *= 2
    return vectors


def _widened(b: ir.IRBuilder, narrow: ir.Value, vector: ir.VectorType) -> ir.Value:
    """The narrow vector, filled up with zeros."""
    count = narrow.type.count
    order = [i if i < count else count for i in range(vector.count)]
    indices = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), order)
    return b.shuffle_vector(narrow, constant(narrow.type, 0.0), indices)


def _turn(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    keys: list[ir.Value],
    queries: list[ir.Value],
    columns: ir.Value,
    fetched: list[ir.Value],
) -> list[ir.Value]:
    """The dot products of each key with each query, in the layout of `_sums`. keys, queries: row addresses.

    Each step also prefetches one cache line of each row in `fetched`.
    """
    pairs = [(key, query) for key in keys for query in queries]
    zero = constant(vector, 0.0)
    with loop(b, columns, step=vector.count, carry=[zero] * len(pairs)) as (column, before, totals):
        for row in fetched:
            prefetch(b, b.gep(row, [column]))
        k = {key: load(b, key, column, vector) for key in keys}
        q = {query: load(b, query, column, vector) for query in queries}
        totals += [fma(b, k[key], q[query], old) for (key, query), old in zip(pairs, before, strict=True)]

    # The tail, in vectors of half the width, a quarter, ...: nothing is read beyond the end of a key.
    done = round_down(b, columns, vector.count)
    count = vector.count // 2
    while count:
        narrow = ir.VectorType(vector.element, count)
        there = b.icmp_signed("<=", b.add(done, const(count)), columns)
        here = b.block
        with b.if_then(there):
            k = {key: _widened(b, load(b, key, done, narrow), vector) for key in keys}
            q = {query: _widened(b, load(b, query, done, narrow), vector) for query in queries}
            more = [fma(b, k[key], q[query], old) for (key, query), old in zip(pairs, totals, strict=True)]
            inside = b.block
        merged = []
        for old, new in zip(totals, more, strict=True):
            phi = b.phi(vector)
            phi.add_incoming(old, here)
            phi.add_incoming(new, inside)
            merged.append(phi)
        totals = merged
        done = b.select(there, b.add(done, const(count)), done)
        count //= 2
    return _sums(b, totals)


def _products(builder: ir.IRBuilder, stored: ir.Type, element: ir.Type) -> ir.Function:
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        k, k_row, keys, q, q_row, queries, s, lanes, columns, v, v_row, room = args
        edge = b.sub(room, const(1))
        last = b.sub(keys, const(1))
        rounded = b.add(keys, const(KEYS - 1))
        with (
            loop(b, rounded, step=KEYS, carry=[]) as (key, _, _),
            loop(b, queries, step=QUERIES, carry=[]) as (query, _, _),
        ):
            numbers = [b.add(key, const(i)) for i in range(KEYS)]
            # Beyond the last key, repeat the last key.
            clipped = [b.select(b.icmp_signed("<", n, last), n, last) for n in numbers]
            rows = [b.gep(k, [b.mul(n, k_row)]) for n in clipped]
            firsts = [b.gep(q, [b.mul(b.add(query, const(i)), q_row)]) for i in range(QUERIES)]
            further = [b.add(n, const(AHEAD)) for n in numbers]
            further = [b.select(b.icmp_signed("<", n, edge), n, edge) for n in further]
            ahead = [b.gep(k, [b.mul(n, k_row)]) for n in further]
            values = [b.gep(v, [b.mul(n, v_row)]) for n in clipped]
            found = _turn(b, vector, rows, firsts, columns, ahead + values)
            some = ir.VectorType(element, QUERIES)
            for i, n in enumerate(clipped):
                picked = [divmod(i * QUERIES + j, vector.count) for j in range(QUERIES)]
                scores: ir.Value = ir.Constant(some, ir.Undefined)
                if len({which for which, _ in picked}) == 1:
                    whole = found[picked[0][0]]
                    order = ir.Constant(ir.VectorType(ir.IntType(32), QUERIES), [lane for _, lane in picked])
                    scores = b.shuffle_vector(whole, whole, order)
                else:
                    for j, (which, lane) in enumerate(picked):
                        number = b.extract_element(found[which], ir.Constant(ir.IntType(32), lane))
                        scores = b.insert_element(scores, number, ir.Constant(ir.IntType(32), j))
                store(b, scores, s, b.add(b.mul(n, lanes), query))

    keys_at, numbers_at = stored.as_pointer(), element.as_pointer()
    signature = [keys_at, INT, INT, numbers_at, INT, INT, numbers_at, INT, INT, keys_at, INT, INT]
    return function(builder, f"fb.dots.{signature_name(vector, stored)}", signature, body)


@intrinsic
def dot_products(
    typingctx: Any,
    k: Any,
    keys: Any,
    q: Any,
    queries: Any,
    s: Any,
    lanes: Any,
    columns: Any,
    v: Any,
    room: Any,
) -> Any:
    """s[key, query] = dot product of k[key] and q[query].

    k, q, v: a `Matrix` each; k and v may be of 16-bit floats. queries: a multiple of QUERIES. columns:
    head_dim.

    Also prefetches v of these keys, and k AHEAD rows ahead, up to row `room` - 1: the core's own prefetcher
    keeps fewer lines in flight, and none across pages.
    """
    n = types.intp
    return types.void(k, n, q, n, s, n, n, v, n), body_by_elements(_products, 0, 4)
