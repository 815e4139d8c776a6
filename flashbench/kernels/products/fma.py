"""Products of float32 and float64, by fused multiply-adds. Numbers are read where they lie."""

from __future__ import annotations

import numpy as np

from flashbench.codegen.ir import fma, load, load_one
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.maths.rows import put_multiple, scale_rows
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.multiply import Instruction, multiplication
from flashbench.kernels.products.pack import pack

BY_FMA = Instruction("fma", 1, load_one, load, fma)
multiply = multiplication(BY_FMA)

# Each step calls `multiply` directly. So LLVM compiles it for each step, and knows which strides are 1 there.


@step
def no_state():
    return np.int32(0)


@step
def keep_state(state):
    pass


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack(x.at, x.row, rows, columns, packed, lanes, factor)


@step
def _as_it_is(x, rows, columns, room):
    """Rows of float32 and float64 are read where they lie."""
    return x


@step
def _weights(p, lanes, rows, room):
    return p


@step
def _key_weights(p, lanes, rows, room):
    return p


@step
def _scores(s, keys, packed, lanes, rows, depth):
    multiply(keys.at, keys.row, 1, Matrix(packed, lanes), Matrix(s, lanes), rows, lanes, depth, False)


@step
def _finish_scores(s, count, factor, needs_units):
    return None


@step
def no_weights(s, rows, lanes, lane_state, factor, target):
    """A step that an inexact product does not have."""


@step
def no_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms):
    """The same for a step that kernels name in a branch which these products do not take."""


@step
def _add_to_queries(p, lanes, x, sums, queries, columns, keys, add):
    multiply(p, 1, lanes, x, Matrix(sums.at, sums.query), queries, columns, keys, add)


@step
def _add_to_keys(p, lanes, x, sums, keys, columns, queries, add):
    multiply(p, lanes, 1, x, sums, keys, columns, queries, add)


@step
def row_sums(room, lanes, columns):
    return Sums(room, columns, 1)


@step
def scale_row_sums(sums, queries, columns, factors):
    scale_rows(sums.at, sums.query, queries, columns, factors)


@step
def put_row_sums(target, sums, queries, columns, factors):
    for r in range(queries):
        put_multiple(at(target.at, r * target.row), at(sums.at, r * sums.query), columns, at(factors, r)[0])


FMA = Product(
    name="fma",
    exact=False,
    parts=1,
    begin=no_state,
    end=keep_state,
    pack=_pack,
    keys=_as_it_is,
    values=_as_it_is,
    turned=_as_it_is,
    weights=_weights,
    queries=_as_it_is,
    key_weights=_key_weights,
    gradient_weights=no_gradient_weights,
    scores=_scores,
    finish_scores=_finish_scores,
    exponentiate=no_weights,
    add_to_queries=_add_to_queries,
    add_to_keys=_add_to_keys,
    sums=row_sums,
    scale=scale_row_sums,
    put=put_row_sums,
)
