"""Softmax and its gradient on whole rows of scores that lie in memory: what the standard engine does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.kernels.exp2 import exp2
from flashbench.kernels.ir import (
    FLOATS,
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    max_of_lanes,
    overload,
    splat,
    store,
    sum_of_lanes,
)


def _pieces(
    b: ir.IRBuilder, element: ir.Type, columns: ir.Value
) -> Iterator[tuple[ir.VectorType, ir.Value, ir.Value]]:
    """(vector type, first column, last column) of the whole vectors of a row, then of its tail."""
    full = full_vector(element)
    whole = b.mul(b.sdiv(columns, const(full.count)), const(full.count))
    yield full, const(0), whole
    yield ir.VectorType(element, 1), whole, columns


def _clear(b: ir.IRBuilder, element: ir.Type, row: ir.Value, first: ir.Value, columns: ir.Value) -> None:
    with loop(b, columns, start=first, carry=[]) as (column, _, _):
        b.store(ir.Constant(element, 0.0), b.gep(row, [column]))


def _softmax_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, columns, seen, row_max_at = args
        # Pass 1: the maximum of what is seen. NaN never compares greater, so it is left to the sum.
        best: ir.Value = ir.Constant(element, float("-inf"))
        for vector, first, last in _pieces(b, element, seen):
            start = splat(b, best, vector.count)
            with loop(b, last, start=first, step=vector.count, carry=[start]) as (column, before, after):
                x = load(b, s, column, vector)
                after.append(b.select(b.fcmp_ordered(">", x, before[0]), x, before[0]))
            best = max_of_lanes(b, after[0])
        b.store(best, row_max_at)
        nothing = b.fcmp_ordered("==", best, ir.Constant(element, float("-inf")))
        shift = b.select(nothing, ir.Constant(element, 0.0), best)

        # Pass 2: exponentials in place, and their sum.
        total: ir.Value = ir.Constant(element, 0.0)
        for vector, first, last in _pieces(b, element, seen):
            shifts = splat(b, shift, vector.count)
            zero = constant(vector, 0.0)
            with loop(b, last, start=first, step=vector.count, carry=[zero]) as (column, before, after):
                p = exp2(b, b.fsub(load(b, s, column, vector), shifts))
                store(b, p, s, column)
                after.append(b.fadd(before[0], p))
            total = b.fadd(total, sum_of_lanes(b, after[0]))

        # Pass 3: divide by the sum; what is not seen has probability 0.
        inverse = b.fdiv(ir.Constant(element, 1.0), total)
        for vector, first, last in _pieces(b, element, seen):
            factors = splat(b, inverse, vector.count)
            with loop(b, last, start=first, step=vector.count, carry=[]) as (column, _, _):
                store(b, b.fmul(load(b, s, column, vector), factors), s, column)
        _clear(b, element, s, seen, columns)
        b.ret(total)

    name = f"fb.softmax_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, INT, INT, pointer], body, result=element)


def _gradient_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp, p, columns, seen, scale = args
        # Pass 1: delta = sum of p * dp, the softmax's own share of the gradient.
        delta: ir.Value = ir.Constant(element, 0.0)
        for vector, first, last in _pieces(b, element, seen):
            zero = constant(vector, 0.0)
            with loop(b, last, start=first, step=vector.count, carry=[zero]) as (column, before, after):
                after.append(fma(b, load(b, p, column, vector), load(b, dp, column, vector), before[0]))
            delta = b.fadd(delta, sum_of_lanes(b, after[0]))

        # Pass 2: ds = scale * p * (dp - delta), in place of dp.
        for vector, first, last in _pieces(b, element, seen):
            deltas, scales = splat(b, delta, vector.count), splat(b, scale, vector.count)
            with loop(b, last, start=first, step=vector.count, carry=[]) as (column, _, _):
                difference = b.fsub(load(b, dp, column, vector), deltas)
                weighted = b.fmul(load(b, p, column, vector), difference)
                store(b, b.fmul(weighted, scales), dp, column)
        _clear(b, element, dp, seen, columns)

    name = f"fb.gradient_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT, INT, element], body)


@intrinsic
def softmax_row(typingctx: Any, s: Any, columns: Any, seen: Any, row_max: Any) -> Any:
    """s[:seen] becomes its softmax to base 2, s[seen:columns] zero.

    Stores the maximum in row_max[0] and returns the sum of 2**(s - maximum).
    """
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_softmax_row(builder, FLOATS[signature.args[0].dtype]), args)

    return s.dtype(s, n, n, s), codegen


@intrinsic
def gradient_row(typingctx: Any, dp: Any, p: Any, columns: Any, seen: Any, scale: Any) -> Any:
    """dp[:seen] becomes scale * p * (dp - sum of p * dp), dp[seen:columns] zero."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_gradient_row(builder, FLOATS[signature.args[0].dtype]), args)
        return context.get_dummy_value()

    return types.void(dp, dp, n, n, dp.dtype), codegen
