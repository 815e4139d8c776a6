"""Softmax and its gradient on whole rows of scores in memory, for the standard engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.ir import (
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
    round_down,
    splat,
    store,
    sum_of_lanes,
)
from flashbench.kernels.maths.exp2 import LOG2E, exp2


def pieces(
    b: ir.IRBuilder, element: ir.Type, columns: ir.Value
) -> Iterator[tuple[ir.VectorType, ir.Value, ir.Value]]:
    """(vector type, first column, end column) for the whole vectors of a row, then for its tail."""
    full = full_vector(element)
    whole = round_down(b, columns, full.count)
    yield full, const(0), whole
    yield ir.VectorType(element, 1), whole, columns


def clear(b: ir.IRBuilder, element: ir.Type, row: ir.Value, first: ir.Value, columns: ir.Value) -> None:
    """row[first:columns] becomes zero."""
    with loop(b, columns, start=first, carry=[]) as (column, _, _):
        b.store(ir.Constant(element, 0.0), b.gep(row, [column]))


def _clear_outside(
    b: ir.IRBuilder, element: ir.Type, row: ir.Value, columns: ir.Value, first: ir.Value, end: ir.Value
) -> None:
    clear(b, element, row, const(0), first)
    clear(b, element, row, end, columns)


def _softmax_row(builder: ir.IRBuilder, element: ir.Type, *, natural: bool = False) -> ir.Function:
    pointer = element.as_pointer()

    def exponential(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        # For base e, scale the difference, not the scores: the lowest float of a mask must stay finite.
        return exp2(b, b.fmul(x, constant(x.type, LOG2E)) if natural else x)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        row, columns, first, end, sink, row_max_at = args
        s, visible = b.gep(row, [first]), b.sub(end, first)
        # Pass 1: the maximum of visible scores. A NaN never compares greater; it enters the sum in pass 2.
        best: ir.Value = sink
        for vector, start, last in pieces(b, element, visible):
            so_far = splat(b, best, vector.count)
            with loop(b, last, start=start, step=vector.count, carry=[so_far]) as (column, before, after):
                x = load(b, s, column, vector)
                after.append(b.select(b.fcmp_ordered(">", x, before[0]), x, before[0]))
            best = max_of_lanes(b, after[0])
        b.store(best, row_max_at)
        nothing = b.fcmp_ordered("==", best, ir.Constant(element, float("-inf")))
        shift = b.select(nothing, ir.Constant(element, 0.0), best)

        # Pass 2: exponentials in place, and their sum, with that of the sink.
        total: ir.Value = ir.Constant(element, 0.0)
        if natural:
            total = sum_of_lanes(b, exponential(b, splat(b, b.fsub(sink, shift), 1)))
        for vector, start, last in pieces(b, element, visible):
            shifts = splat(b, shift, vector.count)
            zero = constant(vector, 0.0)
            with loop(b, last, start=start, step=vector.count, carry=[zero]) as (column, before, after):
                p = exponential(b, b.fsub(load(b, s, column, vector), shifts))
                store(b, p, s, column)
                after.append(b.fadd(before[0], p))
            total = b.fadd(total, sum_of_lanes(b, after[0]))

        # Pass 3: divide by the sum. Hidden scores get probability 0. If none is visible, all get 0.
        inverse = b.fdiv(ir.Constant(element, 1.0), total)
        inverse = b.select(b.fcmp_ordered("==", total, ir.Constant(element, 0.0)), total, inverse)
        for vector, start, last in pieces(b, element, visible):
            factors = splat(b, inverse, vector.count)
            with loop(b, last, start=start, step=vector.count, carry=[]) as (column, _, _):
                store(b, b.fmul(load(b, s, column, vector), factors), s, column)
        _clear_outside(b, element, row, columns, first, end)
        b.ret(total)

    name = f"fb.softmax_row.{'e' if natural else '2'}.{overload(full_vector(element))}"
    signature = [pointer, INT, INT, INT, element, pointer]
    return function(builder, name, signature, body, result=element)


def _natural_softmax_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    return _softmax_row(builder, element, natural=True)


def _mean_gradient(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp, p, count = args
        delta: ir.Value = ir.Constant(element, 0.0)
        for vector, first, last in pieces(b, element, count):
            zero = constant(vector, 0.0)
            with loop(b, last, start=first, step=vector.count, carry=[zero]) as (column, before, after):
                after.append(fma(b, load(b, p, column, vector), load(b, dp, column, vector), before[0]))
            delta = b.fadd(delta, sum_of_lanes(b, after[0]))
        b.ret(delta)

    name = f"fb.mean_gradient.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT], body, result=element)


def _gradient_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp_row, p_row, columns, first, end, delta, scale = args
        dp, p = b.gep(dp_row, [first]), b.gep(p_row, [first])
        for vector, start, last in pieces(b, element, b.sub(end, first)):
            deltas, scales = splat(b, delta, vector.count), splat(b, scale, vector.count)
            with loop(b, last, start=start, step=vector.count, carry=[]) as (column, _, _):
                difference = b.fsub(load(b, dp, column, vector), deltas)
                weighted = b.fmul(load(b, p, column, vector), difference)
                store(b, b.fmul(weighted, scales), dp, column)
        _clear_outside(b, element, dp_row, columns, first, end)

    name = f"fb.gradient_row.{overload(full_vector(element))}"
    signature = [pointer, pointer, INT, INT, INT, element, element]
    return function(builder, name, signature, body)


@intrinsic
def softmax_row(typingctx: Any, s: Any, columns: Any, first: Any, end: Any, row_max: Any) -> Any:
    """s[first:end] becomes its softmax to base 2; the rest of s[:columns] becomes 0.

    Stores the maximum in row_max[0]. Returns the sum of 2**(s - maximum).
    """
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element = ELEMENTS[signature.args[0].dtype]
        no_sink = ir.Constant(element, float("-inf"))
        return builder.call(_softmax_row(builder, element), [*args[:4], no_sink, args[4]])

    return s.dtype(s, n, n, n, s), codegen


@intrinsic
def natural_softmax_row(
    typingctx: Any, s: Any, columns: Any, first: Any, end: Any, sink: Any, row_max: Any
) -> Any:
    """`softmax_row` to base e, with a sink as one more logit; -inf: no sink."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_natural_softmax_row(builder, ELEMENTS[signature.args[0].dtype]), args)

    return s.dtype(s, n, n, n, s.dtype, s), codegen


@intrinsic
def mean_gradient(typingctx: Any, dp: Any, p: Any, count: Any) -> Any:
    """delta = sum of p * dp, the term that softmax subtracts from dp."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_mean_gradient(builder, ELEMENTS[signature.args[0].dtype]), args)

    return dp.dtype(dp, dp, types.intp), codegen


@intrinsic
def gradient_row(
    typingctx: Any, dp: Any, p: Any, columns: Any, first: Any, end: Any, delta: Any, scale: Any
) -> Any:
    """dp[first:end] becomes scale * p * (dp - delta); the rest of dp[:columns] becomes 0."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_gradient_row(builder, ELEMENTS[signature.args[0].dtype]), args)
        return context.get_dummy_value()

    return types.void(dp, dp, n, n, n, dp.dtype, dp.dtype), codegen
