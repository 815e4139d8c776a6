"""p and ds, rounded to bfloat16 or split into parts of it, as products of pairs read them.

    weights       [key / 2, lane]    words of two keys               sums over keys
    key_weights   [key, lane]        two lanes are a word            sums over queries

They are padded as the operands of pairs.py are. p is float32, as all of scratch is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import calls
from flashbench.codegen.ir import INT, const, constant, function, load, loop, round_down
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.maths.exp2 import exp2_flushed, exp2_rounded
from flashbench.kernels.products.split import CUT_THIRDS, HALVES, Split
from flashbench.kernels.products.words import (
    COUNT,
    FLOAT,
    SHORT,
    VECTOR,
    WORD,
    clear_lines,
    exact_pairs,
    halves,
    put_rounded,
    rounded_pairs,
    store_words,
)


class Words(NamedTuple):
    """How a product reads p: rows of words, each for two rows of p."""

    name: str
    split: Split | None  # None: a number is rounded to bfloat16
    exponential: Callable[[ir.IRBuilder, ir.Value], ir.Value]  # 2**x, as exact as the words

    @property
    def lines(self) -> int:
        """Rows of words for two rows of p, one for each part."""
        return 1 if self.split is None else self.split.parts

    def parts_of(self, b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
        """A vector of p as vectors that are rounded to bfloat16 when they are stored."""
        return [x] if self.split is None else self.split.of(b, x)

    def put(
        self,
        b: ir.IRBuilder,
        low: ir.Value,
        high: ir.Value,
        words: ir.Value,
        place: ir.Value,
        lanes: ir.Value,
    ) -> None:
        """Store the words of two rows, of vectors of p, from words[place] on."""
        exact = 0 if self.split is None else self.split.exact
        for number, parts in enumerate(zip(self.parts_of(b, low), self.parts_of(b, high), strict=True)):
            line = b.add(place, b.mul(lanes, const(number)))
            store_words(
                b, exact_pairs(b, *parts) if number < exact else rounded_pairs(b, *parts), words, line
            )


ROUNDED = Words("rounded", None, exp2_rounded)
IN_HALVES = Words("halves", HALVES, exp2_rounded)
IN_THIRDS = Words("thirds", CUT_THIRDS, exp2_flushed)


def clear_words_after(b: ir.IRBuilder, kind: Words, words: ir.Value, rows: ir.Value, lanes: ir.Value) -> None:
    """Clear the words of rows after `rows` rows of p, up to whole tiles."""
    clear_lines(b, words, rows, b.mul(lanes, const(kind.lines)))


def _weights(builder: ir.IRBuilder, kind: Words) -> ir.Function:
    def body(b: ir.IRBuilder, p: ir.Value, lanes: ir.Value, rows: ir.Value, room: ir.Value) -> None:
        words = b.bitcast(room, WORD.as_pointer())

        def put_line(pair: ir.Value, *, both: bool) -> None:
            start, target = b.mul(pair, b.mul(lanes, const(2))), b.mul(pair, b.mul(lanes, const(kind.lines)))
            with loop(b, lanes, step=COUNT, carry=[]) as (lane, _, _):
                place = b.add(start, lane)
                second = load(b, p, b.add(place, lanes), VECTOR) if both else constant(VECTOR, 0.0)
                kind.put(b, load(b, p, place, VECTOR), second, words, b.add(target, lane), lanes)

        pairs = b.sdiv(rows, const(2))
        with loop(b, pairs, carry=[]) as (pair, _, _):
            put_line(pair, both=True)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_line(pairs, both=False)
        clear_words_after(b, kind, words, rows, lanes)

    pointer = FLOAT.as_pointer()
    return function(builder, f"fb.weights.{kind.name}", [pointer, INT, INT, pointer], body)


def _key_weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        p, lanes, rows, room, width = args
        target = b.bitcast(room, SHORT.as_pointer())
        # In order: in place, a store never reaches numbers that are still to be read.
        with loop(b, rows, carry=[]) as (row, _, _):
            source, start = b.mul(row, lanes), b.mul(row, width)
            done: ir.Value = const(0)
            for count in (2, 1):
                with loop(b, lanes, start=done, step=count * COUNT, carry=[]) as (lane, _, _):
                    first = b.add(source, lane)
                    places = [b.add(first, const(i * COUNT)) for i in range(count)]
                    numbers = [load(b, p, place, VECTOR) for place in places]
                    put_rounded(b, numbers, target, b.add(start, lane))
                done = round_down(b, lanes, count * COUNT)

    pointer = FLOAT.as_pointer()
    return function(builder, "fb.key_weights", [pointer, INT, INT, pointer, INT], body)


@cache
def weights_of(kind: Words) -> Any:
    """The step `weights` of a product that reads p so."""

    @intrinsic
    def put(typingctx: Any, p: Any, lanes: Any, rows: Any, room: Any) -> Any:
        n = types.intp
        return types.void(p, n, n, room), calls(partial(_weights, kind=kind))

    @step
    def weights(p, lanes, rows, room):
        """room = the words of p (p[2j, lane], p[2j + 1, lane]), rounded to nearest even, or in parts.

        Rows of words are contiguous. Rows of p from `rows` up to whole tiles are zero. room may be p itself
        if the words need no more memory: up to two lines for two rows.
        """
        put(p, lanes, rows, room)
        return halves(room)

    return weights


@intrinsic
def put_key_weights(typingctx: Any, p: Any, lanes: Any, rows: Any, room: Any, width: Any) -> Any:
    """room[key, lane] = p[key, lane], rounded: `width` 16-bit numbers from row to row, lanes to 2 * lanes."""
    return types.void(p, types.intp, types.intp, room, types.intp), calls(_key_weights)


@step
def key_weights(p, lanes, rows, room):
    """p[key, lane] rounded in the same way, in rows of `lanes` 16-bit numbers. room may be p itself.

    Lanes without a query are not cleared: see `clear_lanes`.
    """
    put_key_weights(p, lanes, rows, room, lanes)
    return halves(room)


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
        numbers = builder.bitcast(numbers, SHORT.as_pointer())
        with loop(builder, stop, start=start, carry=[]) as (place, _, _):
            builder.store(ir.Constant(SHORT, 0), builder.gep(numbers, [place]))
        return context.get_dummy_value()

    return types.void(numbers, types.intp, types.intp), codegen
