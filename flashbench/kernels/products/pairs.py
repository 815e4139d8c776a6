"""Pairs of bfloat16: the operands of instructions that multiply two 16-bit numbers per 32-bit word.

AVX512-BF16 and AMX-BF16 multiply words: low half by low half, high half by high half, and add both products
to one float32. So neighbours along the sum lie in one word, and each operand is laid out for that:

    pack_pairs    [column / 2, lane] from rows of q or do      scores
    pair_rows     [row / 2, column]  from rows of x            sums over rows of x

What p and ds become is in weights.py.

Sizes are padded to what a tile of AMX holds: 16 words, 16 rows of words. Padding is zero, and what lies
beyond the rows and columns of x is not read: zero times a NaN would be a NaN. Returned pointers are to
bfloat16, and their strides count 16-bit numbers. `room`, `packed` and p are float32, as all of scratch is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import calls
from flashbench.codegen.ir import (
    INT,
    const,
    function,
    if_fits,
    lane_numbers,
    loop,
    round_down,
    round_up,
    smaller,
    splat,
)
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.pack import transpose
from flashbench.kernels.products.words import (
    COUNT,
    FLOAT,
    HALF,
    SHORT,
    WORD,
    ZERO,
    clear_lines,
    clear_words,
    halves,
    joined,
    load_stored,
    store_stored,
    store_words,
    words_of,
)


def _pack_pairs(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, packed, lanes, width = args
        words = b.bitcast(packed, WORD.as_pointer())
        whole, wide = b.sdiv(columns, const(2)), const(2 * COUNT)
        # Squares of COUNT words of COUNT rows. The last square begins early, so that it ends with the row,
        # and writes some words again. It cannot if it would split a pair, or if the row is too short.
        odd = b.trunc(columns, ir.IntType(1))
        ends_early = b.and_(b.not_(odd), b.icmp_signed(">=", columns, wide))
        squares = b.sdiv(b.select(ends_early, b.add(columns, const(2 * COUNT - 1)), columns), wide)
        done = smaller(b, b.mul(squares, const(COUNT)), whole)

        # Pass 1: squares. A lane without a row repeats the last row, and is cleared.
        last_row, last = b.sub(rows, const(1)), b.sub(columns, wide)
        with loop(b, lanes, step=COUNT, carry=[]) as (lane, _, _):
            starts = [b.mul(smaller(b, b.add(lane, const(i)), last_row), source_row) for i in range(COUNT)]
            places = b.add(lane_numbers(COUNT), splat(b, lane, COUNT))
            has_row = b.icmp_signed("<", places, splat(b, rows, COUNT))
            with loop(b, squares, carry=[]) as (square, _, _):
                column = smaller(b, b.mul(square, wide), last)
                of_rows = [load_stored(b, source, b.add(start, column), words_of(COUNT)) for start in starts]
                first = b.sdiv(column, const(2))
                for i, value in enumerate(transpose(b, of_rows)):
                    place = b.add(b.mul(b.add(first, const(i)), width), lane)
                    store_words(b, b.select(has_row, value, ZERO), words, place)

        # Pass 2: zeros, then the remaining words one by one.
        room = b.sdiv(round_up(b, columns, DEPTH), const(2))
        with loop(b, room, start=done, carry=[]) as (line, _, _):
            start = b.mul(line, width)
            clear_words(b, words, start, b.add(start, lanes))
        with loop(b, rows, carry=[]) as (row, _, _):
            start = b.mul(row, source_row)
            with loop(b, whole, start=done, carry=[]) as (word, _, _):
                value = load_stored(b, source, b.add(start, b.mul(word, const(2))), WORD)
                store_words(b, value, words, b.add(b.mul(word, width), row))
            with b.if_then(odd):
                value = load_stored(b, source, b.add(start, b.sub(columns, const(1))), SHORT)
                store_words(b, b.zext(value, WORD), words, b.add(b.mul(whole, width), row))

    signature = [HALF, INT, INT, INT, FLOAT.as_pointer(), INT, INT]
    return function(builder, "fb.pack_pairs", signature, body)


def _pair_rows(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room, stride = args
        words, width = b.bitcast(room, WORD.as_pointer()), round_up(b, columns, DEPTH)

        def put_line(pair: ir.Value, *, both: bool) -> None:
            """One row of words, from two rows, or from one and zeros."""
            low = b.mul(b.mul(pair, const(2)), source_row)
            high, target = b.add(low, source_row), b.mul(pair, stride)

            def put(column: ir.Value, count: int) -> None:
                kind = ir.VectorType(SHORT, count)
                first = load_stored(b, source, b.add(low, column), kind)
                second = ir.Constant(kind, [0] * count)
                if both:
                    second = load_stored(b, source, b.add(high, column), kind)
                store_words(b, joined(b, first, second), words, b.add(target, column))

            with loop(b, columns, step=COUNT, carry=[]) as (column, _, _):
                put(column, COUNT)
            done = round_down(b, columns, COUNT)
            clear_words(b, words, b.add(target, done), b.add(target, width))
            count = COUNT // 2
            while count:
                done = if_fits(b, done, count, columns, partial(put, done, count))
                count //= 2

        pairs = b.sdiv(rows, const(2))
        with loop(b, pairs, carry=[]) as (pair, _, _):
            put_line(pair, both=True)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_line(pairs, both=False)
        clear_lines(b, words, rows, width, stride)

    signature = [HALF, INT, INT, INT, FLOAT.as_pointer(), INT]
    return function(builder, "fb.pair_rows", signature, body)


def _pad_rows(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room, width = args
        target = b.bitcast(room, SHORT.as_pointer())
        with loop(b, rows, carry=[]) as (row, _, _):
            start, goal = b.mul(row, source_row), b.mul(row, width)
            done: ir.Value = const(0)
            count = 2 * COUNT
            while count:
                with loop(b, columns, start=done, step=count, carry=[]) as (column, _, _):
                    value = load_stored(b, source, b.add(start, column), ir.VectorType(SHORT, count))
                    store_stored(b, value, target, b.add(goal, column))
                done = round_down(b, columns, count)
                count //= 2
            with loop(b, width, start=columns, carry=[]) as (column, _, _):
                b.store(ir.Constant(SHORT, 0), b.gep(target, [b.add(goal, column)]))

    signature = [HALF, INT, INT, INT, FLOAT.as_pointer(), INT]
    return function(builder, "fb.pad_rows", signature, body)


@intrinsic
def pack_pairs(typingctx: Any, x: Any, rows: Any, columns: Any, packed: Any, lanes: Any, width: Any) -> Any:
    """packed[c, lane] = the word (x[lane][2c], x[lane][2c + 1]): `width` words from row to row.

    Columns are padded to whole tiles (DEPTH). Lanes from `rows` on are zero; rows >= 1.
    """
    n = types.intp
    return types.void(x, n, n, packed, n, n), calls(_pack_pairs)


@intrinsic
def put_pair_rows(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any, stride: Any) -> Any:
    """`pair_rows`, with `stride` words from row to row."""
    n = types.intp
    return types.void(x, n, n, room, n), calls(_pair_rows)


@intrinsic
def _put_padded(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any, width: Any) -> Any:
    n = types.intp
    return types.void(x, n, n, room, n), calls(_pad_rows)


@step
def pair_rows(x, rows, columns, room):
    """The `Matrix` of words (x[2r][c], x[2r + 1][c]) in `room`.

    Its rows are padded to DEPTH words. There are whole tiles of them: DEPTH rows of x. An odd last
    row is paired with zeros.
    """
    width = (columns + DEPTH - 1) // DEPTH * DEPTH
    put_pair_rows(x, rows, columns, room, width)
    return Matrix(halves(room), 2 * width)


@step
def padded_rows(x, rows, columns, room, width):
    """A copy of the rows in `room`, each padded with zeros to `width` numbers."""
    _put_padded(x, rows, columns, room, width)
    return Matrix(halves(room), width)
