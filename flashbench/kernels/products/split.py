"""float16 as the sum of two bfloat16 numbers: operands for tile registers that multiply bfloat16 only.

x = h + l, exactly: h has the upper 8 of the 11 bits of x, l the others. Both have the sign of x, and neither
is 0 unless x is: h is x rounded towards 0, or if x has no other bits, the number before it. So an infinite
factor meets no 0 and no infinity of the other sign, and the sum of the products of parts is infinite or NaN
where the product is. h and l of the smallest float16 number are normal in bfloat16. Of infinity, both are it.

Each layout is that of pairs.py, with h and l side by side:

    pack_split        [column / 2, lane]   a row of words of h, then one of l
    split_rows        [row, column]        of each DEPTH columns h, then l
    pair_split_rows   [row / 2, column]    a row of words of h, then one of l
    turn, turn_split  [block, column, i]   of each block of DEPTH rows all columns of h, then of l

A number is read as 16 bits and widened; rows and columns that do not exist are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, ELEMENTS, FLOAT16
from flashbench.codegen.intrinsics import calls
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    full_vector,
    function,
    load,
    loop,
    round_down,
    round_up,
    smaller,
)
from flashbench.codegen.tiles import DEPTH
from flashbench.kernels.products.pack import transpose
from flashbench.kernels.products.turned import SIDE, copy_corner, put_square
from flashbench.kernels.products.words import rounded_shorts, store_stored

_SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_SHORTS = _SHORT.as_pointer()
_WORDS = _WORD.as_pointer()
_NUMBERS = full_vector(_FLOAT)
_COUNT = _NUMBERS.count
_PATTERNS = ir.VectorType(_WORD, _COUNT)
_ROW = ir.VectorType(_SHORT, SIDE)  # of 16-bit numbers
_FLOAT16 = ELEMENTS[FLOAT16].as_pointer()
_BELOW = 1 - 2.0**-12  # less than 1 by less than a bit of float16


def split(b: ir.IRBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(h, l) of a float32 vector, for any x: h has 8 bits, h + l = x. l of infinity is NaN."""
    patterns = b.bitcast(b.fmul(x, constant(x.type, _BELOW)), _PATTERNS)
    h = b.bitcast(b.and_(patterns, ir.Constant(_PATTERNS, [0xFFFF0000] * _COUNT)), x.type)
    return h, b.fsub(x, h)


class _Square(NamedTuple):
    """SIDE rows and columns of float16 numbers, or fewer rows, in an array or in a copy padded with zeros."""

    row: ir.Value  # the first one's number in the tile
    column: ir.Value
    at: ir.Value
    stride: ir.Value

    def parts(self, b: ir.IRBuilder, row: int) -> tuple[ir.Value, ir.Value]:
        """(h, l) of a row: 16-bit patterns."""
        numbers, start = b.bitcast(self.at, _FLOAT16), b.mul(self.stride, const(row))
        halves = []
        for offset in (0, _COUNT):
            x = load(b, numbers, b.add(start, const(offset)), _NUMBERS)
            h, l_ = split(b, x)
            halves.append((h, b.select(b.fcmp_ordered("==", l_, l_), l_, x)))
        (h, l_), (next_h, next_l) = halves
        return rounded_shorts(b, h, next_h), rounded_shorts(b, l_, next_l)


def _squares(
    b: ir.IRBuilder, source: Any, sizes: tuple[ir.Value, ir.Value], ends: tuple[ir.Value, ir.Value], high: int
) -> Iterator[_Square]:
    """All squares of a tile. source: pointer and stride. sizes: rows and columns; ends: with padding.

    high: rows of a square.
    """
    at, stride = b.bitcast(source[0], _SHORTS), source[1]
    corner = b.alloca(_SHORT, const(SIDE * SIDE))
    with (
        loop(b, ends[0], step=high, carry=[]) as (row, _, _),
        loop(b, ends[1], step=SIDE, carry=[]) as (column, _, _),
    ):
        first = b.gep(at, [b.add(b.mul(row, stride), column)])
        rest = [b.sub(size, start) for size, start in zip(sizes, (row, column), strict=True)]
        whole = b.and_(
            *(b.icmp_signed(">=", size, const(n)) for size, n in zip(rest, (high, SIDE), strict=True))
        )
        before = b.block
        with b.if_then(b.not_(whole)):
            counts = [smaller(b, size, const(n)) for size, n in zip(rest, (high, SIDE), strict=True)]
            b.call(copy_corner(b), [first, stride, *counts, corner])
            copied = b.block
        place, step = b.phi(_SHORTS), b.phi(INT)
        for phi, as_it_is, copy in ((place, first, corner), (step, stride, const(SIDE))):
            phi.add_incoming(as_it_is, before)
            phi.add_incoming(copy, copied)
        yield _Square(row, column, place, step)


def _pack(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, packed, lanes = args
        words = b.bitcast(packed, _WORDS)
        sizes, ends = (rows, columns), (lanes, round_up(b, columns, DEPTH))
        for square in _squares(b, (source, source_row), sizes, ends, _COUNT):
            both = [square.parts(b, i) for i in range(_COUNT)]
            for part in (0, 1):
                lines = transpose(b, [b.bitcast(parts[part], _PATTERNS) for parts in both])
                for i, value in enumerate(lines):  # columns 2i and 2i + 1 of the square
                    line = b.add(square.column, const(2 * i + part))
                    store_stored(b, value, words, b.add(b.mul(line, lanes), square.row))

    signature = [_FLOAT16, INT, INT, INT, _FLOAT.as_pointer(), INT]
    return function(builder, "fb.split.pack", signature, body)


def _place_in_row(b: ir.IRBuilder, column: ir.Value) -> ir.Value:
    """Where h of a column is in a row of `split_rows`; l is DEPTH further."""
    block = round_down(b, column, DEPTH)
    return b.add(block, column)


def _rows(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        target, wide = b.bitcast(room, _SHORTS), round_up(b, columns, DEPTH)
        width = b.mul(wide, const(2))
        for square in _squares(
            b, (source, source_row), (rows, columns), (round_up(b, rows, DEPTH), wide), SIDE
        ):
            place = _place_in_row(b, square.column)
            for i in range(SIDE):
                start = b.add(b.mul(b.add(square.row, const(i)), width), place)
                for value, offset in zip(square.parts(b, i), (0, DEPTH), strict=True):
                    store_stored(b, value, target, b.add(start, const(offset)))

    return function(builder, "fb.split.rows", [_FLOAT16, INT, INT, INT, _FLOAT.as_pointer()], body)


def _pair_rows(builder: ir.IRBuilder) -> ir.Function:
    orders = [[i // 2 + SIDE * (i % 2) for i in range(start, start + SIDE)] for start in (0, SIDE)]

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        words, width, high = b.bitcast(room, _WORDS), round_up(b, columns, DEPTH), round_up(b, rows, DEPTH)
        for square in _squares(b, (source, source_row), (rows, columns), (high, width), SIDE):
            for i in range(0, SIDE, 2):
                pair = zip(square.parts(b, i), square.parts(b, i + 1), strict=True)
                for part, (first, second) in enumerate(pair):
                    line = b.add(square.row, const(i + part))
                    start = b.add(b.mul(line, width), square.column)
                    for offset, order in enumerate(orders):
                        mask = ir.Constant(ir.VectorType(_WORD, SIDE), order)
                        value = b.bitcast(b.shuffle_vector(first, second, mask), _PATTERNS)
                        store_stored(b, value, words, b.add(start, const(offset * _COUNT)))
        # The last tile, if at most half of it is rows: its words of h once more, in its second half.
        last = b.sub(high, const(DEPTH))
        with b.if_then(b.icmp_signed("<=", b.sub(rows, last), const(DEPTH // 2))):
            distance = b.mul(width, const(DEPTH // 2))
            with (
                loop(b, b.sub(high, const(DEPTH // 2)), start=last, step=2, carry=[]) as (line, _, _),
                loop(b, width, step=_COUNT, carry=[]) as (column, _, _),
            ):
                place = b.add(b.mul(line, width), column)
                value = b.load(b.bitcast(b.gep(words, [place]), _PATTERNS.as_pointer()), align=4)
                store_stored(b, value, words, b.add(place, distance))

    return function(builder, "fb.split.pair_rows", [_FLOAT16, INT, INT, INT, _FLOAT.as_pointer()], body)


def _turned_place(b: ir.IRBuilder, row: ir.Value, column: ir.Value, wide: ir.Value) -> ir.Value:
    """Where `turn` puts h of a row and column; l is `wide` columns further."""
    block, inner = b.sdiv(row, const(DEPTH)), b.srem(row, const(DEPTH))
    line = b.add(b.mul(block, b.mul(wide, const(2))), column)
    return b.add(b.mul(line, const(DEPTH)), inner)


def _turn(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        target, wide = b.bitcast(room, _SHORTS), round_up(b, columns, DEPTH)
        for square in _squares(
            b, (source, source_row), (rows, columns), (round_up(b, rows, DEPTH), wide), SIDE
        ):
            both = [square.parts(b, i) for i in range(SIDE)]
            place = _turned_place(b, square.row, square.column, wide)
            for part in (0, 1):
                put_square(b, [parts[part] for parts in both], b.gep(target, [place]))
                place = b.add(place, b.mul(wide, const(DEPTH)))

    return function(builder, "fb.split.turn", [_FLOAT16, INT, INT, INT, _FLOAT.as_pointer()], body)


def _turn_split(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        source, target, wide = (
            b.bitcast(source, _SHORTS),
            b.bitcast(room, _SHORTS),
            round_up(b, columns, DEPTH),
        )
        with (
            loop(b, round_up(b, rows, DEPTH), step=SIDE, carry=[]) as (row, _, _),
            loop(b, wide, step=SIDE, carry=[]) as (column, _, _),
        ):
            start = b.add(b.mul(row, source_row), _place_in_row(b, column))
            place = _turned_place(b, row, column, wide)
            for part in (0, 1):
                first = b.add(start, const(part * DEPTH))
                lines = [
                    b.load(
                        b.bitcast(
                            b.gep(source, [b.add(first, b.mul(source_row, const(i)))]), _ROW.as_pointer()
                        ),
                        align=2,
                    )
                    for i in range(SIDE)
                ]
                put_square(b, lines, b.gep(target, [place]))
                place = b.add(place, b.mul(wide, const(DEPTH)))

    half = ELEMENTS[BFLOAT16].as_pointer()
    return function(builder, "fb.split.turn_split", [half, INT, INT, INT, _FLOAT.as_pointer()], body)


@intrinsic
def pack_split(typingctx: Any, x: Any, rows: Any, columns: Any, packed: Any, lanes: Any) -> Any:
    """packed[2c] = the words (h[lane][2c], h[lane][2c + 1]) of all lanes, packed[2c + 1] those of l.

    Columns are padded to whole tiles; lanes from `rows` on are zero.
    """
    n = types.intp
    return types.void(x, n, n, packed, n), calls(_pack)


@intrinsic
def put_split_rows(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any) -> Any:
    """room[row] = (h, l) of DEPTH columns, then of the next DEPTH. Rows and columns are padded to DEPTH."""
    n = types.intp
    return types.void(x, n, n, room), calls(_rows)


@intrinsic
def put_split_pairs(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any) -> Any:
    """room[2r] = the words (h[2r][c], h[2r + 1][c]) of all columns, room[2r + 1] those of l.

    Rows and columns are padded to DEPTH. If the last DEPTH rows begin with at most DEPTH / 2 of x, their
    words of h stand there twice.
    """
    n = types.intp
    return types.void(x, n, n, room), calls(_pair_rows)


@intrinsic
def turn_float16(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any) -> Any:
    """room[block, 0, column, i] = h[DEPTH * block + i, column], and [block, 1, ...] those of l.

    Rows and columns are padded to DEPTH.
    """
    n = types.intp
    return types.void(x, n, n, room), calls(_turn)


@intrinsic
def turn_split_rows(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any) -> Any:
    """The same from what `put_split_rows` made."""
    n = types.intp
    return types.void(x, n, n, room), calls(_turn_split)
