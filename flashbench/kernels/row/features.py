"""Features on a row of scores in memory: softcap, ALiBi, masks, and their gradients.

Each function is one pass over a row in the first-level cache. It is called only if its feature is on. Scores
are in natural units, not in log2 units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import body_by_element
from flashbench.codegen.ir import (
    INT,
    call,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    overload,
    size_of,
    splat,
    store,
)
from flashbench.kernels.maths.tanh import tanh
from flashbench.kernels.row.softmax import pieces

_BYTE = ir.IntType(8)


def _each_vector(
    b: ir.IRBuilder, element: ir.Type, count: ir.Value, turn: Callable[[ir.VectorType, ir.Value], None]
) -> None:
    """turn(vector type, column) over a row of `count` columns."""
    for vector, first, last in pieces(b, element, count):
        with loop(b, last, start=first, step=vector.count, carry=[]) as (column, _, _):
            turn(vector, column)


def _softcap_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, t, count, cap = args

        def turn(vector: ir.VectorType, column: ir.Value) -> None:
            value = tanh(b, load(b, s, column, vector))
            store(b, value, t, column)
            store(b, b.fmul(value, splat(b, cap, vector.count)), s, column)

        _each_vector(b, element, count, turn)

    name = f"fb.softcap_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT, element], body)


@intrinsic
def softcap_row(typingctx: Any, s: Any, t: Any, count: Any, cap: Any) -> Any:
    """t = tanh(s), then s = cap * t. t may be s itself if tanh is not needed later."""
    return types.void(s, s, types.intp, s.dtype), body_by_element(_softcap_row)


def _softcap_gradient_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        ds, t, count = args

        def turn(vector: ir.VectorType, column: ir.Value) -> None:
            value = load(b, t, column, vector)
            slope = fma(b, b.fneg(value), value, constant(vector, 1.0))
            gradient = load(b, ds, column, vector)
            # A mask may hide a score that is NaN. Its gradient is 0 and must stay 0.
            nothing = b.fcmp_ordered("==", gradient, constant(vector, 0.0))
            store(b, b.select(nothing, gradient, b.fmul(gradient, slope)), ds, column)

        _each_vector(b, element, count, turn)

    name = f"fb.softcap_gradient_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT], body)


@intrinsic
def softcap_gradient_row(typingctx: Any, ds: Any, t: Any, count: Any) -> Any:
    """ds *= 1 - t**2. t: tanh from `softcap_row`."""
    return types.void(ds, ds, types.intp), body_by_element(_softcap_gradient_row)


def _scale_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        x, count, factor = args

        def turn(vector: ir.VectorType, column: ir.Value) -> None:
            store(b, b.fmul(load(b, x, column, vector), splat(b, factor, vector.count)), x, column)

        _each_vector(b, element, count, turn)

    return function(builder, f"fb.scale_row.{overload(full_vector(element))}", [pointer, INT, element], body)


@intrinsic
def scale_row(typingctx: Any, x: Any, count: Any, factor: Any) -> Any:
    """x *= factor."""
    return types.void(x, types.intp, x.dtype), body_by_element(_scale_row)


def _alibi_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, count, slope, distance = args

        def turn(vector: ir.VectorType, column: ir.Value) -> None:
            lanes = ir.Constant(vector, [float(lane) for lane in range(vector.count)])
            # Distances are integers; float32 is exact up to 2**24.
            nearest = splat(b, b.sitofp(b.sub(distance, column), element), vector.count)
            size = call(b, f"llvm.fabs.{overload(vector)}", vector, b.fsub(nearest, lanes))
            fall = splat(b, b.fneg(slope), vector.count)
            store(b, fma(b, fall, size, load(b, s, column, vector)), s, column)

        _each_vector(b, element, count, turn)

    name = f"fb.alibi_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, INT, element, INT], body)


@intrinsic
def alibi_row(typingctx: Any, s: Any, count: Any, slope: Any, distance: Any) -> Any:
    """s[j] -= slope * |distance - j|."""
    n = types.intp
    return types.void(s, n, s.dtype, n), body_by_element(_alibi_row)


def _each_entry(
    b: ir.IRBuilder,
    element: ir.Type,
    entry: ir.Type,
    args: tuple[ir.Value, ...],
    combine: Callable[[ir.Value, ir.Value], ir.Value],
) -> None:
    """x[j] = combine(x[j], mask[j * mask_step]) over a row; in vectors if mask_step is 1.

    args: x, mask, mask_step, count.
    """
    x, mask, step, count = args
    neighbours = b.icmp_signed("==", step, const(1))
    size = const(full_vector(element).count)
    whole = b.select(neighbours, b.mul(b.sdiv(count, size), size), const(0))
    for vector, first, last in (
        (full_vector(element), const(0), whole),
        (ir.VectorType(element, 1), whole, count),
    ):
        with loop(b, last, start=first, step=vector.count, carry=[]) as (column, _, _):
            entries = ir.VectorType(entry, vector.count)
            place = b.gep(mask, [b.mul(column, step)])
            value = b.load(
                b.bitcast(place, entries.as_pointer()), align=1 if entry is _BYTE else size_of(element)
            )
            store(b, combine(load(b, x, column, vector), value), x, column)


def _is_lowest(b: ir.IRBuilder, entries: ir.Value) -> ir.Value:
    return b.fcmp_ordered("==", entries, constant(entries.type, float("-inf")))


def _add_mask_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        def combine(score: ir.Value, entries: ir.Value) -> ir.Value:
            return b.select(_is_lowest(b, entries), entries, b.fadd(score, entries))

        _each_entry(b, element, element, args, combine)

    name = f"fb.add_mask_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT, INT], body)


@intrinsic
def add_mask_row(typingctx: Any, s: Any, mask: Any, mask_step: Any, count: Any) -> Any:
    """s[j] += mask[j * mask_step]; -inf where the mask is -inf, even if s is NaN."""
    n = types.intp
    return types.void(s, s, n, n), body_by_element(_add_mask_row)


def _clear_lowest_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        def combine(value: ir.Value, entries: ir.Value) -> ir.Value:
            return b.select(_is_lowest(b, entries), constant(value.type, 0.0), value)

        _each_entry(b, element, element, args, combine)

    name = f"fb.clear_lowest_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT, INT], body)


@intrinsic
def clear_lowest_row(typingctx: Any, x: Any, mask: Any, mask_step: Any, count: Any) -> Any:
    """x[j] = 0 where the additive mask[j * mask_step] is -inf."""
    n = types.intp
    return types.void(x, x, n, n), body_by_element(_clear_lowest_row)


def _hide_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        def combine(x: ir.Value, entries: ir.Value) -> ir.Value:
            hidden = b.icmp_unsigned("==", entries, ir.Constant(entries.type, None))
            return b.select(hidden, splat(b, args[4], x.type.count), x)

        _each_entry(b, element, _BYTE, args[:4], combine)

    name = f"fb.hide_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, _BYTE.as_pointer(), INT, INT, element], body)


@intrinsic
def hide_row(typingctx: Any, x: Any, mask: Any, mask_step: Any, count: Any, value: Any) -> Any:
    """x[j] = value where the bool mask[j * mask_step] is False."""
    n = types.intp
    return types.void(x, mask, n, n, x.dtype), body_by_element(_hide_row)
