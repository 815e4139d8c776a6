"""p = exp2(factor * s - row_max) as words of two numbers: the second pass of an online softmax.

The words are those of `weights.weights`, (p[2j, lane], p[2j + 1, lane]), or of `split_weights`, made straight
from scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    fma,
    function,
    load,
    loop,
    overload,
    round_down,
    splat,
    store,
)
from flashbench.codegen.steps import step
from flashbench.kernels.maths.exp2 import exp2
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products.split_weights import clear_split_lines, put_split_words
from flashbench.kernels.products.words import FLOAT, VECTOR, clear_lines, rounded_pairs, store_words

NUMBERS = FLOAT.as_pointer()
GROUP = 4  # vectors of a row at once: independent work hides the latency of the polynomial


class Scores(NamedTuple):
    """The scores of some keys. Pointers: to the first row, and to one number per lane."""

    s: ir.Value
    lanes: ir.Value
    row_max: ir.Value
    row_sum: ir.Value
    factor: ir.Value


class Words(NamedTuple):
    """How a product reads p."""

    name: str
    # put(b, low, high, words, place, lanes): the words of two rows, of vectors of p, from words[place] on.
    put: Callable[..., None]
    # clear(b, words, rows, lanes): clears the words of rows after `rows` rows of p, up to whole tiles.
    clear: Callable[..., None]


def _put_rounded(
    b: ir.IRBuilder, low: ir.Value, high: ir.Value, words: ir.Value, place: ir.Value, lanes: ir.Value
) -> None:
    store_words(b, rounded_pairs(b, low, high), words, place)


def _clear_rounded(b: ir.IRBuilder, words: ir.Value, rows: ir.Value, lanes: ir.Value) -> None:
    clear_lines(b, words, rows, lanes, b.mul(lanes, const(2)))


ROUNDED = Words("rounded", _put_rounded, _clear_rounded)
SPLIT = Words("split", put_split_words, clear_split_lines)


class Group:
    """Writes the code for one group of vectors of lanes."""

    def __init__(
        self, b: ir.IRBuilder, scores: Scores, offsets: list[ir.Value], kind: Words = ROUNDED
    ) -> None:
        self._scores, self._offsets, self._kind = scores, offsets, kind
        self._words = b.bitcast(scores.s, ir.IntType(32).as_pointer())
        self._factors = splat(b, scores.factor, VECTOR.count)
        lowest, zero = constant(VECTOR, float("-inf")), constant(VECTOR, 0.0)
        self._shifts = []
        for offset in offsets:  # a lane with no visible key: exp2(-inf - 0) = 0, while -inf + inf is NaN
            reference = load(b, scores.row_max, offset, VECTOR)
            self._shifts.append(b.select(b.fcmp_ordered("==", reference, lowest), zero, reference))

    def load_sums(self, b: ir.IRBuilder) -> list[ir.Value]:
        return [load(b, self._scores.row_sum, offset, VECTOR) for offset in self._offsets]

    def store_sums(self, b: ir.IRBuilder, sums: list[ir.Value]) -> None:
        for offset, value in zip(self._offsets, sums, strict=True):
            store(b, value, self._scores.row_sum, offset)

    def put(self, b: ir.IRBuilder, row: ir.Value, count: int, sums: list[ir.Value]) -> list[ir.Value]:
        """The words of one row, or of two rows. Returns the sums with them."""
        s, lanes = self._scores.s, self._scores.lanes
        following = []
        for offset, shift, value in zip(self._offsets, self._shifts, sums, strict=True):
            place, total = b.add(b.mul(row, lanes), offset), value
            p = [constant(VECTOR, 0.0)] * 2
            for i in range(count):
                x = load(b, s, b.add(place, b.mul(lanes, const(i))), VECTOR)
                p[i] = exp2(b, fma(b, x, self._factors, b.fneg(shift)), for_halves=True)
                total = b.fadd(total, p[i])
            self._kind.put(b, *p, self._words, place, lanes)
            following.append(total)
        return following

    def put_rest(
        self, b: ir.IRBuilder, first: ir.Value, rows: ir.Value, sums: list[ir.Value]
    ) -> list[ir.Value]:
        """Rows from `first`, an even one, to rows - 1."""
        with loop(b, rows, start=first, step=2, carry=sums) as (row, values, following):
            following += self.put(b, row, 2, values)
        last, odd = b.sub(rows, const(1)), b.and_(rows, const(1))
        with loop(b, odd, carry=list(following)) as (_, values, of_last):
            of_last += self.put(b, last, 1, values)
        return of_last


def _exponentiate(builder: ir.IRBuilder, kind: Words) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, row_max, row_sum, factor = args
        scores = Scores(s, lanes, row_max, row_sum, factor)
        done: ir.Value = const(0)
        for size in (GROUP, 2, 1):
            width = size * VECTOR.count
            with loop(b, lanes, start=done, step=width, carry=[]) as (lane, _, _):
                offsets = [b.add(lane, const(i * VECTOR.count)) for i in range(size)]
                group = Group(b, scores, offsets, kind)
                group.store_sums(b, group.put_rest(b, const(0), rows, group.load_sums(b)))
            done = round_down(b, lanes, width)
        kind.clear(b, b.bitcast(s, ir.IntType(32).as_pointer()), rows, lanes)

    signature = [NUMBERS, INT, INT, NUMBERS, NUMBERS, FLOAT]
    return function(builder, f"fb.exponentiate.{kind.name}.{overload(VECTOR)}", signature, body)


def _exponentiation(kind: Words) -> Any:
    @intrinsic
    def exponentiate(
        typingctx: Any, s: Any, rows: Any, lanes: Any, row_max: Any, row_sum: Any, factor: Any
    ) -> Any:
        """The second pass over some rows of s: words of p = exp2(factor * s - row_max), and row_sum += p.

        Words of rows from `rows` up to a multiple of 32 become zero. rows: even, but for a tile's last part.
        """
        n = types.intp

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            builder.call(_exponentiate(builder, kind), args)
            return context.get_dummy_value()

        return types.void(s, n, n, s, s, types.float32), codegen

    return exponentiate


exponentiate, exponentiate_split = _exponentiation(ROUNDED), _exponentiation(SPLIT)


@step
def exponentiate_rows(tile, lanes):
    """`exponentiate` for a tile as `weigh_and_score` gets it."""
    s, rows, row_max, row_sum, factor = tile
    exponentiate(s, rows, lanes, row_max, row_sum, factor)


@step
def exponentiate_split_rows(tile, lanes):
    """The same with words of `split_weights`."""
    s, rows, row_max, row_sum, factor = tile
    exponentiate_split(s, rows, lanes, row_max, row_sum, factor)


@step
def finish_exact_scores(s, count, factor, needs_units):
    """q was packed as it is: multiply the tile by `factor` if it needs units, else leave that to softmax."""
    if needs_units:
        put_multiple(s, s, count, factor)
        return np.float32(1)
    return factor
