"""p and ds as sums of two bfloat16 numbers: weights for the operands of split.py.

p = h + l to 16 bits: h has its upper 8, and l the rest, rounded to 8. Layouts are those of weights.py:

    weights       [key / 2, lane]   in place of two rows of float32, a row of words of h, then one of l
    key_weights   [key, lane]       in place of DEPTH float32 numbers, h of these lanes, then l
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import calls
from flashbench.codegen.ir import INT, const, constant, full_vector, function, load, loop, round_down
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH
from flashbench.kernels.products.split import split
from flashbench.kernels.products.weights import clear_numbers
from flashbench.kernels.products.words import clear_lines, halves, put_rounded, rounded_pairs, store_words

_SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_WORDS, _FLOATS = _WORD.as_pointer(), _FLOAT.as_pointer()
_NUMBERS = full_vector(_FLOAT)
_COUNT = _NUMBERS.count
_PATTERNS = ir.VectorType(_WORD, _COUNT)


def put_split_words(
    b: ir.IRBuilder, low: ir.Value, high: ir.Value, words: ir.Value, place: ir.Value, lanes: ir.Value
) -> None:
    """The words (h of low, h of high) at words[place], those of l a row of `lanes` words further."""
    (low_h, low_l), (high_h, high_l) = split(b, low), split(b, high)
    upper = b.lshr(b.bitcast(low_h, _PATTERNS), ir.Constant(_PATTERNS, [16] * _COUNT))
    store_words(b, b.or_(upper, b.bitcast(high_h, _PATTERNS)), words, place)
    store_words(b, rounded_pairs(b, low_l, high_l), words, b.add(place, lanes))


def clear_split_lines(b: ir.IRBuilder, words: ir.Value, rows: ir.Value, lanes: ir.Value) -> None:
    """Clear the words of rows after `rows` rows of p, up to whole tiles."""
    clear_lines(b, words, rows, b.mul(lanes, const(2)))


def _weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, p: ir.Value, lanes: ir.Value, rows: ir.Value) -> None:
        words = b.bitcast(p, _WORDS)

        def put_line(row: ir.Value, *, both: bool) -> None:
            start = b.mul(row, lanes)
            with loop(b, lanes, step=_COUNT, carry=[]) as (lane, _, _):
                place = b.add(start, lane)
                second = load(b, p, b.add(place, lanes), _NUMBERS) if both else constant(_NUMBERS, 0.0)
                put_split_words(b, load(b, p, place, _NUMBERS), second, words, place, lanes)

        with loop(b, rows, step=2, carry=[]) as (row, _, _):
            put_line(row, both=True)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_line(b.sub(rows, const(1)), both=False)
        clear_split_lines(b, words, rows, lanes)

    return function(builder, "fb.split.weights", [_FLOATS, INT, INT], body)


def _key_weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        p, lanes, rows, room = args
        target = b.bitcast(room, _SHORT.as_pointer())

        def put_block(start: ir.Value, size: int) -> None:
            """`size` lanes, in place if p is the room: all are read before the first is written."""
            offsets = range(0, size, _COUNT)
            both = [split(b, load(b, p, b.add(start, const(offset)), _NUMBERS)) for offset in offsets]
            first = b.mul(start, const(2))
            for offset, parts in zip(offsets, both, strict=True):
                for part, value in enumerate(parts):
                    put_rounded(b, [value], target, b.add(first, const(part * size + offset)))

        whole = round_down(b, lanes, DEPTH)
        with loop(b, rows, carry=[]) as (row, _, _):
            start = b.mul(row, lanes)
            with loop(b, whole, step=DEPTH, carry=[]) as (lane, _, _):
                put_block(b.add(start, lane), DEPTH)
            with b.if_then(b.icmp_signed("<", whole, lanes)):
                put_block(b.add(start, whole), DEPTH // 2)

    return function(builder, "fb.split.key_weights", [_FLOATS, INT, INT, _FLOATS], body)


@intrinsic
def _put_weights(typingctx: Any, p: Any, lanes: Any, rows: Any) -> Any:
    return types.void(p, types.intp, types.intp), calls(_weights)


@intrinsic
def _put_key_weights(typingctx: Any, p: Any, lanes: Any, rows: Any, room: Any) -> Any:
    return types.void(p, types.intp, types.intp, room), calls(_key_weights)


@step
def split_weights(p, lanes, rows):
    """In place, words (h[2j, lane], h[2j + 1, lane]) where row 2j began, and those of l where the next did.

    Rows from `rows` up to whole tiles are zero.
    """
    _put_weights(p, lanes, rows)
    return halves(p)


@step
def split_key_weights(p, lanes, rows, room):
    """room[key] = h of DEPTH lanes, then l of them, then of the next; a last half block has half of each."""
    _put_key_weights(p, lanes, rows, room)
    return halves(room)


@step
def clear_split_lanes(w, lanes, first, rows):
    """Clear lanes `first` to lanes - 1 of `split_key_weights`, at most DEPTH / 2: see `clear_lanes`."""
    size = DEPTH // 2 if lanes % DEPTH else DEPTH
    block = lanes - size
    for key in range(rows):
        of_block = at(w, 2 * (key * lanes + block))
        clear_numbers(of_block, first - block, size)
        clear_numbers(of_block, size + first - block, 2 * size)
