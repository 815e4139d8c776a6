"""p = exp2(factor * s - row_max) as words of two numbers: the second pass of an online softmax.

The words are those of weights.py, made straight from scores.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    fma,
    function,
    larger,
    load,
    loop,
    overload,
    round_down,
    splat,
    store,
)
from flashbench.codegen.steps import step
from flashbench.kernels.maths.exp2 import MOST_ABOVE
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products.weights import Words, clear_words_after
from flashbench.kernels.products.words import FLOAT, VECTOR

NUMBERS = FLOAT.as_pointer()
GROUP = 4  # vectors of a row at once: independent work hides the latency of the polynomial


class Scores(NamedTuple):
    """The scores of some keys. Pointers: to the first row, and to one number per lane."""

    s: ir.Value
    rows: ir.Value
    lanes: ir.Value
    row_max: ir.Value
    row_sum: ir.Value
    new_sum: ir.Value
    factor: ir.Value
    words: ir.Value


class _Group:
    """Writes the code for one group of vectors of lanes. Carries a row sum and a largest exponent of each."""

    def __init__(self, b: ir.IRBuilder, scores: Scores, offsets: list[ir.Value], kind: Words) -> None:
        self._scores, self._offsets, self._kind = scores, offsets, kind
        self._factors = splat(b, scores.factor, VECTOR.count)
        lowest, zero = constant(VECTOR, float("-inf")), constant(VECTOR, 0.0)
        self._shifts, self._limits = [], []
        for offset in offsets:  # a lane with no visible key: exp2(-inf - 0) = 0, while -inf + inf is NaN
            reference = load(b, scores.row_max, offset, VECTOR)
            unseen = b.fcmp_ordered("==", reference, lowest)
            self._shifts.append(b.fneg(b.select(unseen, zero, reference)))
            self._limits.append(b.select(unseen, lowest, constant(VECTOR, MOST_ABOVE)))

    def put(self, b: ir.IRBuilder) -> ir.Value:
        """All rows. Returns an integer with a bit for each lane: 0 if no exponent exceeds its limit."""
        rows, count = self._scores.rows, len(self._offsets)
        carry = [load(b, self._scores.row_sum, offset, VECTOR) for offset in self._offsets]
        carry += [constant(VECTOR, float("-inf"))] * count
        pairs = round_down(b, rows, 2)
        with loop(b, pairs, step=2, carry=carry) as (row, values, following):
            following += self._put_rows(b, row, 2, values)
        with loop(b, b.and_(rows, const(1)), carry=list(following)) as (_, values, of_last):
            of_last += self._put_rows(b, pairs, 1, values)
        sums, largest = of_last[:count], of_last[count:]
        for offset, value in zip(self._offsets, sums, strict=True):
            store(b, value, self._scores.new_sum, offset)
        bits = ir.IntType(VECTOR.count)
        beyond: ir.Value = ir.Constant(bits, 0)
        for value, limit in zip(largest, self._limits, strict=True):
            beyond = b.or_(beyond, b.bitcast(b.fcmp_ordered(">", value, limit), bits))
        return beyond

    def _put_rows(self, b: ir.IRBuilder, row: ir.Value, rows: int, carried: list[ir.Value]) -> list[ir.Value]:
        """The words of one row, or of two."""
        lanes, count = self._scores.lanes, len(self._offsets)
        line = b.mul(b.mul(b.sdiv(row, const(2)), const(self._kind.lines)), lanes)
        sums, largest = carried[:count], carried[count:]
        for i, offset in enumerate(self._offsets):
            p = [constant(VECTOR, 0.0)] * 2
            for side in range(rows):
                place = b.add(b.mul(b.add(row, const(side)), lanes), offset)
                x = fma(b, load(b, self._scores.s, place, VECTOR), self._factors, self._shifts[i])
                largest[i] = larger(b, x, largest[i])
                p[side] = self._kind.exponential(b, x)
                sums[i] = b.fadd(sums[i], p[side])
            self._kind.put(b, p[0], p[1], self._scores.words, b.add(line, offset), lanes)
        return [*sums, *largest]


def _exponentiate(builder: ir.IRBuilder, kind: Words) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, row_max, row_sum, new_sum, factor, target = args
        words = b.bitcast(target, ir.IntType(32).as_pointer())
        scores = Scores(s, rows, lanes, row_max, row_sum, new_sum, factor, words)
        bits = ir.IntType(VECTOR.count)
        beyond: ir.Value = ir.Constant(bits, 0)
        done: ir.Value = const(0)
        for size in (GROUP, 2, 1):
            width = size * VECTOR.count
            with loop(b, lanes, start=done, step=width, carry=[beyond]) as (lane, values, following):
                offsets = [b.add(lane, const(i * VECTOR.count)) for i in range(size)]
                following.append(b.or_(values[0], _Group(b, scores, offsets, kind).put(b)))
            beyond, done = following[0], round_down(b, lanes, width)
        clear_words_after(b, kind, scores.words, rows, lanes)
        b.ret(b.icmp_unsigned("!=", beyond, ir.Constant(bits, 0)))

    signature = [NUMBERS, INT, INT, *[NUMBERS] * 3, FLOAT, NUMBERS]
    name = f"fb.exponentiate.{kind.name}.{overload(VECTOR)}"
    return function(builder, name, signature, body, result=BOOL)


def _exponentiation(kind: Words) -> Any:
    @intrinsic
    def exponentiate(
        typingctx: Any, s: Any, rows: Any, lanes: Any, lane_state: Any, factor: Any, target: Any
    ) -> Any:
        """target = words of p = exp2(factor * s - row_max), and new_sum = row_sum + the sum of p.

        lane_state: pointers to row_max, row_sum and new_sum, one number per lane. Words of rows from `rows`
        up to a multiple of 32 become zero.

        Returns whether row_max is too small: an exponent exceeds MOST_ABOVE, or a lane whose row_max is -inf
        has a visible key. Then the results are of no use.
        """
        n = types.intp

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            beyond = builder.call(_exponentiate(builder, kind), spread(builder, args))
            return context.cast(builder, beyond, types.boolean, types.boolean)

        return types.boolean(s, n, n, lane_state, types.float32, s), codegen

    return exponentiate


@functools.cache
def exponentiate_by(kind: Words) -> Any:
    """The step `exponentiate` of a product that reads p so."""
    put = _exponentiation(kind)

    @step
    def exponentiate(s, rows, lanes, lane_state, factor, target):
        return put(s, rows, lanes, lane_state, factor, target)

    return exponentiate


@step
def finish_exact_scores(s, count, factor, needs_units):
    """q was packed as it is: multiply the tile by `factor` if it needs units, else leave that to softmax."""
    if needs_units:
        put_multiple(s, s, count, factor)
        return np.float32(1)
    return factor
