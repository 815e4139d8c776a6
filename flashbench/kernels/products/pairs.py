"""Pairs of bfloat16: the operands of instructions that multiply two 16-bit numbers per 32-bit word.

AVX512-BF16 and AMX-BF16 multiply words: low half by low half, high half by high half, and add both products
to one float32. So neighbours along the sum lie in one word, and each operand is laid out for that:

    pack_pairs    [column / 2, lane] from rows of q or do      scores
    pair_rows     [row / 2, column]  from rows of x            sums over rows of x
    weights       [key / 2, lane]    from p[key, lane]         sums over keys
    key_weights   [key, lane]        from p[key, lane]         sums over queries: two lanes are a word

Sizes are padded to what a tile of AMX holds: 16 words, 16 rows of words. Padding is zero, and what lies
beyond the rows and columns of x is not read: zero times a NaN would be a NaN. Returned pointers are to
bfloat16, and their strides count 16-bit numbers. `room`, `packed` and p are float32, as all of scratch is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, ELEMENTS, narrow
from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    INT,
    call,
    const,
    constant,
    full_vector,
    function,
    if_fits,
    lane_numbers,
    load,
    loop,
    splat,
)
from flashbench.codegen.isa import HAS_BFLOAT16
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.pack import transpose

WORDS = 16  # words in a row of an AMX tile, and rows of words
_SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_NUMBERS = full_vector(_FLOAT)
_COUNT = _NUMBERS.count  # words in a vector of the target
_HALF = ELEMENTS[BFLOAT16].as_pointer()


def _words(count: int) -> ir.Type:
    return ir.VectorType(_WORD, count)


_ZERO = ir.Constant(_words(_COUNT), [0] * _COUNT)


def _whole(b: ir.IRBuilder, size: ir.Value, unit: int) -> ir.Value:
    """size rounded down to a multiple of `unit`."""
    return b.mul(b.sdiv(size, const(unit)), const(unit))


def _padded(b: ir.IRBuilder, size: ir.Value, unit: int) -> ir.Value:
    """size rounded up to a multiple of `unit`."""
    return _whole(b, b.add(size, const(unit - 1)), unit)


def _smaller(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.icmp_signed("<", x, y), x, y)


def load_stored(b: ir.IRBuilder, numbers: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
    """Bits of `kind` from numbers[offset] on. They are aligned as 16-bit numbers are."""
    return b.load(b.bitcast(b.gep(numbers, [offset]), kind.as_pointer()), align=2)


def store_words(b: ir.IRBuilder, value: ir.Value, words: ir.Value, offset: ir.Value) -> None:
    b.store(value, b.bitcast(b.gep(words, [offset]), value.type.as_pointer()), align=4)


def _clear_words(b: ir.IRBuilder, words: ir.Value, start: ir.Value, stop: ir.Value) -> None:
    """words[start:stop] = 0, whole vectors."""
    with loop(b, stop, start=start, step=_COUNT, carry=[]) as (place, _, _):
        store_words(b, _ZERO, words, place)


def _joined(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Words from two vectors of 16-bit patterns."""
    words = _words(low.type.count)
    upper = b.shl(b.zext(high, words), ir.Constant(words, [16] * words.count))
    return b.or_(b.zext(low, words), upper)


def _pack_pairs(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, packed, lanes = args
        words = b.bitcast(packed, _WORD.as_pointer())
        whole, wide = b.sdiv(columns, const(2)), const(2 * _COUNT)
        # Squares of _COUNT words of _COUNT rows. The last square begins early, so that it ends with the row,
        # and writes some words again. It cannot if it would split a pair, or if the row is too short.
        odd = b.trunc(columns, ir.IntType(1))
        ends_early = b.and_(b.not_(odd), b.icmp_signed(">=", columns, wide))
        squares = b.sdiv(b.select(ends_early, b.add(columns, const(2 * _COUNT - 1)), columns), wide)
        done = _smaller(b, b.mul(squares, const(_COUNT)), whole)

        # Pass 1: squares. A lane without a row repeats the last row, and is cleared.
        last_row, last = b.sub(rows, const(1)), b.sub(columns, wide)
        with loop(b, lanes, step=_COUNT, carry=[]) as (lane, _, _):
            starts = [b.mul(_smaller(b, b.add(lane, const(i)), last_row), source_row) for i in range(_COUNT)]
            places = b.add(lane_numbers(_COUNT), splat(b, lane, _COUNT))
            has_row = b.icmp_signed("<", places, splat(b, rows, _COUNT))
            with loop(b, squares, carry=[]) as (square, _, _):
                column = _smaller(b, b.mul(square, wide), last)
                of_rows = [load_stored(b, source, b.add(start, column), _words(_COUNT)) for start in starts]
                first = b.sdiv(column, const(2))
                for i, value in enumerate(transpose(b, of_rows)):
                    place = b.add(b.mul(b.add(first, const(i)), lanes), lane)
                    store_words(b, b.select(has_row, value, _ZERO), words, place)

        # Pass 2: zeros, then the remaining words one by one.
        room = b.sdiv(_padded(b, columns, 2 * WORDS), const(2))
        _clear_words(b, words, b.mul(done, lanes), b.mul(room, lanes))
        with loop(b, rows, carry=[]) as (row, _, _):
            start = b.mul(row, source_row)
            with loop(b, whole, start=done, carry=[]) as (word, _, _):
                value = load_stored(b, source, b.add(start, b.mul(word, const(2))), _WORD)
                store_words(b, value, words, b.add(b.mul(word, lanes), row))
            with b.if_then(odd):
                value = load_stored(b, source, b.add(start, b.sub(columns, const(1))), _SHORT)
                store_words(b, b.zext(value, _WORD), words, b.add(b.mul(whole, lanes), row))

    signature = [_HALF, INT, INT, INT, _FLOAT.as_pointer(), INT]
    return function(builder, "fb.pack_pairs", signature, body)


def _pair_rows(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room = args
        words, width = b.bitcast(room, _WORD.as_pointer()), _padded(b, columns, 2 * WORDS)

        def put_line(pair: ir.Value, *, both: bool) -> None:
            """One row of words, from two rows, or from one and zeros."""
            low = b.mul(b.mul(pair, const(2)), source_row)
            high, target = b.add(low, source_row), b.mul(pair, width)

            def put(column: ir.Value, count: int) -> None:
                kind = ir.VectorType(_SHORT, count)
                first = load_stored(b, source, b.add(low, column), kind)
                second = ir.Constant(kind, [0] * count)
                if both:
                    second = load_stored(b, source, b.add(high, column), kind)
                store_words(b, _joined(b, first, second), words, b.add(target, column))

            with loop(b, columns, step=_COUNT, carry=[]) as (column, _, _):
                put(column, _COUNT)
            done = _whole(b, columns, _COUNT)
            _clear_words(b, words, b.add(target, done), b.add(target, width))
            count = _COUNT // 2
            while count:
                done = if_fits(b, done, count, columns, partial(put, done, count))
                count //= 2

        pairs = b.sdiv(rows, const(2))
        with loop(b, pairs, carry=[]) as (pair, _, _):
            put_line(pair, both=True)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_line(pairs, both=False)
        clear_lines(b, words, rows, width)

    signature = [_HALF, INT, INT, INT, _FLOAT.as_pointer()]
    return function(builder, "fb.pair_rows", signature, body)


def clear_lines(
    b: ir.IRBuilder, words: ir.Value, rows: ir.Value, width: ir.Value, stride: ir.Value | None = None
) -> None:
    """Clear the rows of words after those of `rows` rows of numbers, up to a multiple of WORDS.

    stride: words from row to row, if it is not `width`.
    """
    first = b.sdiv(b.add(rows, const(1)), const(2))
    end = b.sdiv(_padded(b, rows, 2 * WORDS), const(2))
    with loop(b, end, start=first, carry=[]) as (line, _, _):
        start = b.mul(line, width if stride is None else stride)
        _clear_words(b, words, start, b.add(start, width))


def rounded_pairs(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Words of two float32 vectors, rounded to bfloat16. The instruction flushes denormals to zero."""
    if not HAS_BFLOAT16:
        half = ELEMENTS[BFLOAT16]
        return _joined(b, narrow(b, low, half), narrow(b, high, half))
    both = ir.VectorType(_SHORT, 2 * _COUNT)
    numbers = call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", both, high, low)
    order = [i // 2 + _COUNT * (i % 2) for i in range(2 * _COUNT)]
    mixed = b.shuffle_vector(numbers, numbers, ir.Constant(_words(2 * _COUNT), order))
    return b.bitcast(mixed, _words(_COUNT))


def put_rounded(b: ir.IRBuilder, vectors: list[ir.Value], target: ir.Value, place: ir.Value) -> None:
    """Store one or two float32 vectors side by side from target[place] on, rounded in the same way."""

    def put(value: ir.Value, first: ir.Value) -> None:
        b.store(value, b.bitcast(b.gep(target, [first]), value.type.as_pointer()), align=2)

    if not HAS_BFLOAT16:
        for i, vector in enumerate(vectors):
            put(narrow(b, vector, ELEMENTS[BFLOAT16]), b.add(place, const(i * _COUNT)))
    elif len(vectors) == 2:
        low, high = vectors
        both = ir.VectorType(_SHORT, 2 * _COUNT)
        put(call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", both, high, low), place)
    else:
        one = ir.VectorType(_SHORT, _COUNT)
        put(call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", one, vectors[0]), place)


def _weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, p: ir.Value, lanes: ir.Value, rows: ir.Value) -> None:
        words, stride = b.bitcast(p, _WORD.as_pointer()), b.mul(lanes, const(2))

        def put_line(pair: ir.Value, *, both: bool) -> None:
            start = b.mul(pair, stride)
            with loop(b, lanes, step=_COUNT, carry=[]) as (lane, _, _):
                place = b.add(start, lane)
                second = load(b, p, b.add(place, lanes), _NUMBERS) if both else constant(_NUMBERS, 0.0)
                store_words(b, rounded_pairs(b, load(b, p, place, _NUMBERS), second), words, place)

        pairs = b.sdiv(rows, const(2))
        with loop(b, pairs, carry=[]) as (pair, _, _):
            put_line(pair, both=True)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_line(pairs, both=False)
        clear_lines(b, words, rows, lanes, stride)

    return function(builder, "fb.weights", [_FLOAT.as_pointer(), INT, INT], body)


def _key_weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        p, lanes, rows, room, width = args
        target = b.bitcast(room, _SHORT.as_pointer())
        # In order: in place, a store never reaches numbers that are still to be read.
        with loop(b, rows, carry=[]) as (row, _, _):
            source, start = b.mul(row, lanes), b.mul(row, width)
            done: ir.Value = const(0)
            for count in (2, 1):
                with loop(b, lanes, start=done, step=count * _COUNT, carry=[]) as (lane, _, _):
                    first = b.add(source, lane)
                    places = [b.add(first, const(i * _COUNT)) for i in range(count)]
                    numbers = [load(b, p, place, _NUMBERS) for place in places]
                    put_rounded(b, numbers, target, b.add(start, lane))
                done = _whole(b, lanes, count * _COUNT)

    pointer = _FLOAT.as_pointer()
    return function(builder, "fb.key_weights", [pointer, INT, INT, pointer, INT], body)


def _pad_rows(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, room, width = args
        target = b.bitcast(room, _SHORT.as_pointer())
        with loop(b, rows, carry=[]) as (row, _, _):
            start, goal = b.mul(row, source_row), b.mul(row, width)
            done: ir.Value = const(0)
            count = 2 * _COUNT
            while count:
                with loop(b, columns, start=done, step=count, carry=[]) as (column, _, _):
                    value = load_stored(b, source, b.add(start, column), ir.VectorType(_SHORT, count))
                    place = b.gep(target, [b.add(goal, column)])
                    b.store(value, b.bitcast(place, value.type.as_pointer()), align=2)
                done = _whole(b, columns, count)
                count //= 2
            with loop(b, width, start=columns, carry=[]) as (column, _, _):
                b.store(ir.Constant(_SHORT, 0), b.gep(target, [b.add(goal, column)]))

    signature = [_HALF, INT, INT, INT, _FLOAT.as_pointer(), INT]
    return function(builder, "fb.pad_rows", signature, body)


def _body(build: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(build(builder), spread(builder, args))
        return context.get_dummy_value()

    return codegen


@intrinsic
def halves(typingctx: Any, base: Any) -> Any:
    """The same address as a pointer to bfloat16."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _HALF)

    return types.CPointer(BFLOAT16)(base), codegen


@intrinsic
def pack_pairs(typingctx: Any, x: Any, rows: Any, columns: Any, packed: Any, lanes: Any) -> Any:
    """packed[c, lane] = the word (x[lane][2c], x[lane][2c + 1]): `lanes` words from row to row.

    Columns are padded to whole tiles (2 * WORDS). Lanes from `rows` on are zero; rows >= 1.
    """
    n = types.intp
    return types.void(x, n, n, packed, n), _body(_pack_pairs)


@intrinsic
def _put_pair_rows(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any) -> Any:
    n = types.intp
    return types.void(x, n, n, room), _body(_pair_rows)


@intrinsic
def _put_weights(typingctx: Any, p: Any, lanes: Any, rows: Any) -> Any:
    return types.void(p, types.intp, types.intp), _body(_weights)


@intrinsic
def put_key_weights(typingctx: Any, p: Any, lanes: Any, rows: Any, room: Any, width: Any) -> Any:
    """room[key, lane] = p[key, lane], rounded: `width` 16-bit numbers from row to row, lanes to 2 * lanes."""
    return types.void(p, types.intp, types.intp, room, types.intp), _body(_key_weights)


@intrinsic
def _put_padded(typingctx: Any, x: Any, rows: Any, columns: Any, room: Any, width: Any) -> Any:
    n = types.intp
    return types.void(x, n, n, room, n), _body(_pad_rows)


@step
def pair_rows(x, rows, columns, room):
    """The `Matrix` of words (x[2r][c], x[2r + 1][c]) in `room`.

    Its rows are padded to 2 * WORDS words. There are whole tiles of them: 2 * WORDS rows of x. An odd last
    row is paired with zeros.
    """
    _put_pair_rows(x, rows, columns, room)
    return Matrix(halves(room), 2 * ((columns + 2 * WORDS - 1) // (2 * WORDS) * (2 * WORDS)))


@step
def padded_rows(x, rows, columns, room, width):
    """A copy of the rows in `room`, each padded with zeros to `width` numbers."""
    _put_padded(x, rows, columns, room, width)
    return Matrix(halves(room), width)


@step
def weights(p, lanes, rows):
    """In place, the words (p[2j, lane], p[2j + 1, lane]), rounded to nearest, ties to even.

    Words j begin where float32 row 2j began: 4 * lanes 16-bit numbers from row to row. Rows from `rows` up to
    whole tiles (2 * WORDS) are zero.
    """
    _put_weights(p, lanes, rows)
    return halves(p)


@step
def key_weights(p, lanes, rows, room):
    """p[key, lane] rounded in the same way, in rows of `lanes` 16-bit numbers. room may be p itself.

    Lanes without a query are not cleared: see `clear_lanes`.
    """
    put_key_weights(p, lanes, rows, room, lanes)
    return halves(room)


@step
def finish_exact_scores(s, count, factor, needs_units):
    """q was packed as it is: multiply the tile by `factor` if it needs units, else leave that to softmax."""
    if needs_units:
        put_multiple(s, s, count, factor)
        return np.float32(1)
    return factor


@step
def clear_lanes(w, lanes, first, rows):
    """Clear lanes `first` to lanes - 1 of `key_weights`.

    A lane without a query has weight 0, unless a row of k or v is not finite: then it has NaN, which would
    spread to the sums of that key, although zeros stand against it.
    """
    for key in range(rows):
        clear_numbers(at(w, key * lanes), first, lanes)


@intrinsic
def clear_numbers(typingctx: Any, numbers: Any, start: Any, stop: Any) -> Any:
    """numbers[start:stop] = 0."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        numbers, start, stop = args
        numbers = builder.bitcast(numbers, _SHORT.as_pointer())
        with loop(builder, stop, start=start, carry=[]) as (place, _, _):
            builder.store(ir.Constant(_SHORT, 0), builder.gep(numbers, [place]))
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.intp), codegen
