"""Numbers as sums of bfloat16 numbers: operands for tile registers, which multiply bfloat16 only.

A float16 number is h + l, a float32 number h + m + l, exactly (split.py). Each layout is that of pairs.py or
turned.py, with the parts of a row, or of a block, side by side:

    part_rows    [row, part, column]               rows of keys; p and ds as rows of keys
    pack_parts   [column / 2, part, lane]          words of pairs
    pair_parts   [row / 2, part, column]           words of pairs
    turn_parts   [block, part, column, i]          blocks of DEPTH rows, transposed

Columns are padded with zeros to a multiple of DEPTH: that is the width of a row of one part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, ELEMENTS, narrow
from flashbench.codegen.intrinsics import element_of, spread
from flashbench.codegen.ir import (
    INT,
    const,
    full_vector,
    function,
    load,
    loop,
    round_down,
    round_up,
    signature_name,
)
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.pairs import pack_pairs, put_pair_rows
from flashbench.kernels.products.split import Split
from flashbench.kernels.products.turned import turn
from flashbench.kernels.products.words import COUNT, SHORT, halves, put_rounded, store_stored
from flashbench.problem import MAX_HEAD_DIM

_FLOAT = ir.FloatType()
_NUMBERS = full_vector(_FLOAT)


def _store(b: ir.IRBuilder, part: list[ir.Value], target: ir.Value, place: ir.Value) -> None:
    """One vector, or two whole ones."""
    if part[0].type.count == COUNT:
        put_rounded(b, part, target, place)
    else:
        store_stored(b, narrow(b, part[0], ELEMENTS[BFLOAT16]), target, place)


def _part_rows(builder: ir.IRBuilder, stored: ir.Type, split: Split) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room, high = args
        target, width = b.bitcast(room, SHORT.as_pointer()), round_up(b, columns, DEPTH)
        row_size = b.mul(width, const(split.parts))
        with loop(b, rows, carry=[]) as (row, _, _):
            start, goal = b.mul(row, source_row), b.mul(row, row_size)
            done: ir.Value = const(0)
            step = 2 * COUNT
            while step:
                vector = ir.VectorType(_FLOAT, min(step, COUNT))
                with loop(b, columns, start=done, step=step, carry=[]) as (column, _, _):
                    first = b.add(start, column)
                    places = [b.add(first, const(i)) for i in range(0, step, vector.count)]
                    parts = [split.of(b, load(b, source, place, vector)) for place in places]
                    for number, part in enumerate(zip(*parts, strict=True)):
                        place = b.add(b.add(goal, column), b.mul(width, const(number)))
                        _store(b, list(part), target, place)
                done = round_down(b, columns, step)
                step //= 2
            for number in range(split.parts):
                first = b.add(goal, b.mul(width, const(number)))
                _clear(b, target, b.add(first, columns), b.add(first, width))
        _clear(b, target, b.mul(rows, row_size), b.mul(high, row_size))

    signature = [stored.as_pointer(), INT, INT, INT, _FLOAT.as_pointer(), INT]
    name = f"fb.part_rows.{split.name}.{signature_name(_NUMBERS, stored)}"
    return function(builder, name, signature, body)


def _clear(b: ir.IRBuilder, target: ir.Value, start: ir.Value, stop: ir.Value) -> None:
    with loop(b, stop, start=start, carry=[]) as (place, _, _):
        b.store(ir.Constant(SHORT, 0), b.gep(target, [place]))


@intrinsic
def _room_of_block(typingctx: Any, like: Any) -> Any:
    """Memory for DEPTH rows of parts, in the stack frame of the caller: a pointer as `like` is."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        count = DEPTH * 3 * MAX_HEAD_DIM // 2  # 16-bit numbers, two to each float32
        kind = args[0].type.pointee
        return cgutils.alloca_once(builder, kind, size=const(count), name="parts")

    return like(like), codegen


class Layouts(NamedTuple):
    """Steps that lay out operands: x is a `Matrix` of rows, room float32 scratch."""

    # rows(x, rows, columns, room, high): part_rows; rows from `rows` to high - 1 are zero.
    rows: Any
    # pack(x, rows, columns, packed, lanes): pack_parts; lanes from `rows` on are zero.
    pack: Any
    # pairs(x, rows, columns, room): pair_parts; rows are padded to a multiple of DEPTH.
    pairs: Any
    # turn(x, rows, columns, room): turn_parts of rows of the array.
    turn: Any
    # turn_rows(parts, rows, columns, room): the same from the `Matrix` of part_rows.
    turn_rows: Any


def layouts_of(split: Split) -> Layouts:
    """The layouts of numbers that are split so."""
    count = split.parts

    @intrinsic
    def put_rows(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any, high: Any) -> Any:
        n = types.intp

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            builder.call(_part_rows(builder, element_of(signature.args[0]), split), spread(builder, args))
            return context.get_dummy_value()

        return types.void(x, n, n, room, n), codegen

    @step
    def rows_of(x, rows, columns, room, high):
        put_rows(x, rows, columns, room, high)

    @step
    def block_of(x, first, rows, columns, room, high):
        """Up to DEPTH rows from `first` on, as part_rows in the caller's memory."""
        source = Matrix(at(x.at, first * x.row), x.row)
        put_rows(source, max(0, min(high, rows - first)), columns, room, high)

    @step
    def pack(x, rows, columns, packed, lanes):
        width = _padded(columns)
        room = _room_of_block(packed)
        for first in range(0, lanes, DEPTH):
            some = min(DEPTH, lanes - first)
            block_of(x, first, rows, columns, room, some)
            for part in range(count):
                block = Matrix(at(halves(room), part * width), count * width)
                pack_pairs(block, some, columns, at(packed, first + part * lanes), some, count * lanes)

    @step
    def pairs(x, rows, columns, room):
        width = _padded(columns)
        block_room = _room_of_block(room)
        for first in range(0, rows, DEPTH):
            block_of(x, first, rows, columns, block_room, DEPTH)
            for part in range(count):
                block = Matrix(at(halves(block_room), part * width), count * width)
                target = at(room, (first // 2 * count + part) * width)
                put_pair_rows(block, DEPTH, width, target, count * width)

    @step
    def turn_block(block, rows, columns, room, first):
        """One block of part_rows, whose first row is row `first`."""
        width = _padded(columns)
        for part in range(count):
            target = at(room, (first * count + part * DEPTH) * width // 2)
            turn(at(block.at, part * width), block.row, rows, columns, target)

    @step
    def turn_array(x, rows, columns, room):
        block_room = _room_of_block(room)
        for first in range(0, rows, DEPTH):
            block_of(x, first, rows, columns, block_room, DEPTH)
            turn_block(Matrix(halves(block_room), count * _padded(columns)), DEPTH, columns, room, first)

    @step
    def turn_rows(parts, rows, columns, room):
        for first in range(0, rows, DEPTH):
            block = Matrix(at(parts.at, first * parts.row), parts.row)
            turn_block(block, min(DEPTH, rows - first), columns, room, first)

    return Layouts(rows_of, pack, pairs, turn_array, turn_rows)


@step
def _padded(columns):
    return (columns + DEPTH - 1) // DEPTH * DEPTH
