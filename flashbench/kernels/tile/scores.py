"""Features on a tile of scores s[key, query lane]: softcap, ALiBi, causality and window.

Scores are in log2 units, except the input of softcap, which is divided by the cap. Each function is one pass
over a tile in the first-level cache. It is called only if its feature is on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.intrinsics import body_by_element
from flashbench.codegen.ir import (
    INT,
    call,
    const,
    constant,
    fma,
    full_vector,
    function,
    integer_like,
    load,
    loop,
    overload,
    round_down,
    splat,
    store,
)
from flashbench.kernels.maths.tanh import tanh

_AT_ONCE = 4


def each_row(b: ir.IRBuilder, rows: ir.Value) -> Iterator[ir.Value]:
    """Every row of a tile, unrolled by _AT_ONCE: the work on one row is small beside the loop's overhead."""
    with loop(b, rows, step=_AT_ONCE, carry=[]) as (row, _, _):
        for i in range(_AT_ONCE):
            yield b.add(row, const(i))
    done = round_down(b, rows, _AT_ONCE)
    with loop(b, rows, start=done, carry=[]) as (row, _, _):
        yield row


def _cap(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    vector = full_vector(element)
    one = constant(vector, 1.0)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, count, cap, slopes = args
        caps = splat(b, cap, vector.count)
        keep = b.icmp_unsigned("!=", b.ptrtoint(slopes, INT), const(0))
        with loop(b, count, step=vector.count, carry=[]) as (place, _, _):
            t = tanh(b, load(b, s, place, vector))
            store(b, b.fmul(t, caps), s, place)
            with b.if_then(keep):
                store(b, fma(b, b.fneg(t), t, one), slopes, place)

    return function(builder, f"fb.cap.{overload(vector)}", [pointer, INT, element, pointer], body)


@intrinsic
def cap_scores(typingctx: Any, s: Any, count: Any, cap: Any, slopes: Any) -> Any:
    """s[i] = cap * tanh(s[i]) for `count` numbers, a multiple of the vector's lanes.

    slopes: output for the derivative 1 - tanh(s)**2; null: not stored.
    """
    signature = types.void(s, types.intp, s.dtype, s)
    return signature, body_by_element(_cap)


def _chain(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    vector = full_vector(element)

    zero = constant(vector, 0.0)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        gradients, slopes, count = args
        with loop(b, count, step=vector.count, carry=[]) as (place, _, _):
            ds, slope = load(b, gradients, place, vector), load(b, slopes, place, vector)
            hidden = b.fcmp_ordered("==", ds, zero)
            store(b, b.select(hidden, zero, b.fmul(ds, slope)), gradients, place)

    return function(builder, f"fb.chain_cap.{overload(vector)}", [pointer, pointer, INT], body)


@intrinsic
def chain_softcap(typingctx: Any, gradients: Any, slopes: Any, count: Any) -> Any:
    """gradients *= slopes for `count` numbers, a multiple of the vector's lanes. slopes: from `cap_scores`.

    A gradient of 0 stays 0, even if the hidden score was NaN.
    """
    return types.void(gradients, gradients, types.intp), body_by_element(_chain)


def _alibi(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    vector = full_vector(element)
    name = f"llvm.fabs.{overload(vector)}"

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, first_key, positions, slopes = args
        with loop(b, lanes, step=vector.count, carry=[]) as (lane, _, _):
            position, slope = load(b, positions, lane, vector), load(b, slopes, lane, vector)
            for row in each_row(b, rows):
                key = splat(b, b.sitofp(b.add(first_key, row), element), vector.count)
                distance = call(b, name, vector, b.fsub(position, key))
                place = b.add(b.mul(row, lanes), lane)
                store(b, fma(b, slope, distance, load(b, s, place, vector)), s, place)

    signature = [pointer, INT, INT, INT, pointer, pointer]
    return function(builder, f"fb.alibi.{overload(vector)}", signature, body)


@intrinsic
def add_alibi(
    typingctx: Any, s: Any, rows: Any, lanes: Any, first_key: Any, positions: Any, slopes: Any
) -> Any:
    """s[j, lane] += slopes[lane] * |positions[lane] - (first_key + j)|.

    slopes: the negative ALiBi slopes, in log2 units. positions: the key index of each query's diagonal, exact
    in float32 up to 2**24.
    """
    n = types.intp
    return types.void(s, n, n, n, s, s), body_by_element(_alibi)


def _hide(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    vector = full_vector(element)
    ints = integer_like(vector)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        tile, rows, lanes, first_key, firsts, ends, value = args
        values = splat(b, value, vector.count)
        with loop(b, lanes, step=vector.count, carry=[]) as (lane, _, _):
            first, end = (b.bitcast(load(b, x, lane, vector), ints) for x in (firsts, ends))
            for row in each_row(b, rows):
                number = b.add(first_key, row)
                if ints.element.width < 64:
                    number = b.trunc(number, ints.element)
                key = splat(b, number, vector.count)
                visible = b.and_(b.icmp_signed(">=", key, first), b.icmp_signed("<", key, end))
                place = b.add(b.mul(row, lanes), lane)
                store(b, b.select(visible, load(b, tile, place, vector), values), tile, place)

    signature = [pointer, INT, INT, INT, pointer, pointer, element]
    return function(builder, f"fb.limits.{overload(vector)}", signature, body)


@intrinsic
def hide_outside(
    typingctx: Any, tile: Any, rows: Any, lanes: Any, first_key: Any, firsts: Any, ends: Any, value: Any
) -> Any:
    """tile[j, lane] = value unless firsts[lane] <= first_key + j < ends[lane].

    firsts and ends hold integers, written by `put_whole`.
    """
    n = types.intp
    return types.void(tile, n, n, n, tile, tile, tile.dtype), body_by_element(_hide)


@intrinsic
def put_whole(typingctx: Any, table: Any, place: Any, value: Any) -> Any:
    """Store `value` at table[place] as an integer of the float's size; below 2**31 for float32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> Any:
        target, index, number = args
        element = ELEMENTS[signature.args[0].dtype]
        whole = integer_like(ir.VectorType(element, 1)).element
        if whole.width < 64:
            number = builder.trunc(number, whole)
        cell = builder.bitcast(builder.gep(target, [index]), whole.as_pointer())
        builder.store(number, cell)
        return context.get_dummy_value()

    return types.void(table, types.intp, types.intp), codegen
