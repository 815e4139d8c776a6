"""Transposed operands and sums of products on tile registers.

`turn` transposes rows of v or k for o^T += v^T p^T and dq^T += k^T ds^T. `put_turned` transposes their sums
back.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, ELEMENTS
from flashbench.codegen.intrinsics import body_by_elements
from flashbench.codegen.ir import (
    INT,
    const,
    full_vector,
    function,
    load,
    load_one,
    loop,
    round_down,
    round_up,
    signature_name,
    smaller,
    store,
    store_one,
)
from flashbench.codegen.tiles import DEPTH
from flashbench.kernels.products.pack import transpose

_SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_SHORTS, _FLOATS = _SHORT.as_pointer(), _FLOAT.as_pointer()
_HALVES = ELEMENTS[BFLOAT16].as_pointer()
_NUMBERS = full_vector(_FLOAT)
_COUNT = _NUMBERS.count
# Rows and columns of 16-bit numbers that are transposed at once: words of two, squares of them.
SIDE = 2 * _COUNT
_ROW = ir.VectorType(_SHORT, SIDE)
_LANE = 8  # 16-bit numbers of 16 bytes: within these, x86 interleaves two vectors by one instruction


def _short_row(b: ir.IRBuilder, at: ir.Value, offset: ir.Value) -> ir.Value:
    return b.load(b.bitcast(b.gep(at, [offset]), _ROW.as_pointer()), align=2)


def _put_short_row(b: ir.IRBuilder, value: ir.Value, at: ir.Value, offset: ir.Value) -> None:
    b.store(value, b.bitcast(b.gep(at, [offset]), value.type.as_pointer()), align=2)


def copy_corner(builder: ir.IRBuilder) -> ir.Function:
    """Copy the part of a square that has rows and columns, and clear the rest."""

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, target = args
        with loop(b, const(SIDE), carry=[]) as (row, _, _):
            _put_short_row(b, ir.Constant(_ROW, [0] * SIDE), target, b.mul(row, const(SIDE)))
        with loop(b, rows, carry=[]) as (row, _, _):
            done: ir.Value = const(0)
            width = SIDE
            while width:
                with loop(b, columns, start=done, step=width, carry=[]) as (column, _, _):
                    kind = ir.VectorType(_SHORT, width).as_pointer()
                    place = b.gep(source, [b.add(b.mul(row, source_row), column)])
                    value = b.load(b.bitcast(place, kind), align=2)
                    _put_short_row(b, value, target, b.add(b.mul(row, const(SIDE)), column))
                done = round_down(b, columns, width)
                width //= 2

    return function(builder, "fb.turn.corner", [_SHORTS, INT, INT, INT, _SHORTS], body)


def put_square(b: ir.IRBuilder, rows: list[ir.Value], target: ir.Value) -> None:
    """target[column, row] = rows[row][column] for SIDE rows and columns.

    Rows of `target`: DEPTH numbers.
    """
    orders = []
    for half in (0, 1):  # the low or the high four columns of each eight
        columns = [_LANE * group + 4 * half + i for group in range(SIDE // _LANE) for i in range(4)]
        both = [side * SIDE + column for column in columns for side in (0, 1)]
        orders.append((columns, ir.Constant(ir.VectorType(_WORD, SIDE), both)))
    for columns, order in orders:
        pairs = zip(rows[::2], rows[1::2], strict=True)
        words = [
            b.bitcast(b.shuffle_vector(low, high, order), ir.VectorType(_WORD, _COUNT)) for low, high in pairs
        ]
        for column, value in zip(columns, transpose(b, words), strict=True):
            _put_short_row(b, value, target, const(column * DEPTH))


def _turn(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        source, room = b.bitcast(source, _SHORTS), b.bitcast(room, _SHORTS)
        corner = b.alloca(_SHORT, const(SIDE * SIDE))
        all_rows, all_columns = round_up(b, rows, DEPTH), round_up(b, columns, DEPTH)
        with (
            loop(b, all_rows, step=SIDE, carry=[]) as (row, _, _),
            loop(b, all_columns, step=SIDE, carry=[]) as (column, _, _),
        ):
            block, inner = b.sdiv(row, const(DEPTH)), b.srem(row, const(DEPTH))
            line = b.add(b.mul(block, all_columns), column)
            target = b.gep(room, [b.add(b.mul(line, const(DEPTH)), inner)])
            first = b.gep(source, [b.add(b.mul(row, source_row), column)])
            sizes = [smaller(b, b.sub(*ends), const(SIDE)) for ends in ((rows, row), (columns, column))]
            whole = b.and_(*(b.icmp_signed("==", size, const(SIDE)) for size in sizes))
            before = b.block
            with b.if_then(b.not_(whole)):
                b.call(copy_corner(b), [first, source_row, *sizes, corner])
                copied = b.block
            at, stride = b.phi(_SHORTS), b.phi(INT)
            for phi, as_it_is, copy in ((at, first, corner), (stride, source_row, const(SIDE))):
                phi.add_incoming(as_it_is, before)
                phi.add_incoming(copy, copied)
            put_square(b, [_short_row(b, at, b.mul(stride, const(i))) for i in range(SIDE)], target)

    return function(builder, "fb.turn", [_HALVES, INT, INT, INT, _FLOATS], body)


@intrinsic
def turn(typingctx: Any, x: Any, x_row: Any, rows: Any, columns: Any, room: Any) -> Any:
    """room[block, column, i] = x[DEPTH * block + i, column]: blocks of DEPTH rows of x, transposed.

    Rows and columns are padded with zeros to multiples of DEPTH. room: float32 scratch.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_turn(builder), args)
        return context.get_dummy_value()

    n = types.intp
    return types.void(x, n, n, n, room), codegen


def _put_turned(builder: ir.IRBuilder, stored: ir.Type) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        target, target_row, sums, lanes, queries, columns, factors = args
        square = b.alloca(_FLOAT, const(_COUNT * _COUNT))
        with (
            loop(b, b.add(queries, const(_COUNT - 1)), step=_COUNT, carry=[]) as (query, _, _),
            loop(b, b.add(columns, const(_COUNT - 1)), step=_COUNT, carry=[]) as (column, _, _),
        ):
            of_lanes = load(b, factors, query, _NUMBERS)
            places = [b.add(b.mul(b.add(column, const(i)), lanes), query) for i in range(_COUNT)]
            turned = transpose(b, [b.fmul(load(b, sums, place, _NUMBERS), of_lanes) for place in places])
            high, wide = b.sub(queries, query), b.sub(columns, column)
            whole = b.and_(*(b.icmp_signed(">=", size, const(_COUNT)) for size in (high, wide)))
            first = b.add(b.mul(query, target_row), column)
            with b.if_else(whole) as (all_of_it, part):
                with all_of_it:
                    for i, value in enumerate(turned):
                        store(b, value, target, b.add(first, b.mul(const(i), target_row)))
                with part:
                    for i, value in enumerate(turned):
                        store(b, value, square, const(i * _COUNT))
                    with (
                        loop(b, smaller(b, high, const(_COUNT)), carry=[]) as (row, _, _),
                        loop(b, smaller(b, wide, const(_COUNT)), carry=[]) as (place, _, _),
                    ):
                        number = load_one(b, square, b.add(b.mul(row, const(_COUNT)), place))
                        store_one(b, number, target, b.add(b.add(first, b.mul(row, target_row)), place))

    signature = [stored.as_pointer(), INT, _FLOATS, INT, INT, INT, _FLOATS]
    return function(builder, f"fb.put_turned.{signature_name(_NUMBERS, stored)}", signature, body)


@intrinsic
def put_turned(
    typingctx: Any,
    target: Any,
    target_row: Any,
    sums: Any,
    lanes: Any,
    queries: Any,
    columns: Any,
    factors: Any,
) -> Any:
    """target[query, column] = factors[query] * sums[column, query], rounded once. lanes: of a row of sums.

    sums and factors have whole vectors of lanes, and rows of sums are padded to whole vectors too.
    """
    n = types.intp
    signature = types.void(target, n, sums, n, n, n, factors)
    return signature, body_by_elements(_put_turned, 0)


def _scale_lanes(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        sums, lanes, columns, factors = args
        with loop(b, lanes, step=_COUNT, carry=[]) as (lane, _, _):
            of_lanes = load(b, factors, lane, _NUMBERS)
            with loop(b, columns, carry=[]) as (column, _, _):
                place = b.add(b.mul(column, lanes), lane)
                store(b, b.fmul(load(b, sums, place, _NUMBERS), of_lanes), sums, place)

    return function(builder, "fb.scale_lanes", [_FLOATS, INT, INT, _FLOATS], body)


@intrinsic
def scale_lanes(typingctx: Any, sums: Any, lanes: Any, columns: Any, factors: Any) -> Any:
    """sums[column, lane] *= factors[lane]."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_scale_lanes(builder), args)
        return context.get_dummy_value()

    n = types.intp
    return types.void(sums, n, n, factors), codegen
