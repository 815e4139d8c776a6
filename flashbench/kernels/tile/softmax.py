"""Softmax on a tile of transposed scores s[key, query lane], in log2 units.

Queries are lanes, so max and sum over keys are vertical: there is no horizontal reduction. The scores already
contain the factor softmax_scale * log2(e): q was multiplied by it when it was packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    larger,
    load,
    loop,
    overload,
    round_down,
    splat,
    store,
)
from flashbench.kernels.maths.exp2 import MOST_ABOVE, exp2

_GROUPS = (4, 2, 1)  # vectors of a row per iteration; a narrower tile takes more rows instead
AT_ONCE = 4  # vectors per iteration: independent work hides the latency of the polynomial


def for_lane_groups(
    b: ir.IRBuilder, lanes: ir.Value, vector: ir.VectorType, body: Callable[[list[ir.Value]], None]
) -> None:
    """body(offsets of the vectors) over all lanes, in groups of _GROUPS vectors."""
    done: ir.Value = const(0)
    for size in _GROUPS:
        group = size * vector.count
        with loop(b, lanes, start=done, step=group, carry=[]) as (lane, _, _):
            body([b.add(lane, const(i * vector.count)) for i in range(size)])
        done = round_down(b, lanes, group)


def for_rows(
    b: ir.IRBuilder,
    rows: ir.Value,
    at_once: int,
    carry: list[ir.Value],
    turn: Callable[[list[ir.Value], list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """values = turn(some rows, values) over all rows, at_once rows per call. Returns the final values."""
    done: ir.Value = const(0)
    for step in sorted({at_once, 1}, reverse=True):
        with loop(b, rows, start=done, step=step, carry=carry) as (row, values, following):
            following += turn([b.add(row, const(i)) for i in range(step)], values)
        carry = list(following)
        done = round_down(b, rows, step)
    return carry


class Lanes(NamedTuple):
    """What passes over a group of lanes need. Pointers: to a tile of scores, and to one number per lane."""

    s: ir.Value
    s_row: ir.Value
    rows: ir.Value
    row_max: ir.Value
    row_sum: ir.Value
    rescale: ir.Value
    grew: ir.Value  # pointer to a flag: set if row_max grows in any lane
    factor: ir.Value | None  # a vector: multiplies s to give log2 units; None: s is in log2 units


def raise_maximum(
    b: ir.IRBuilder, lanes: Lanes, vector: ir.VectorType, offsets: list[ir.Value]
) -> tuple[list[ir.Value], list[ir.Value]]:
    """The passes before the exponential, for a group of vectors of lanes. Returns (shifts, row sums).

    shifts: row_max, or 0 for a lane with no visible key yet. row sums: of older tiles, under the new maximum.
    """
    lowest, zero = constant(vector, float("-inf")), constant(vector, 0.0)
    # Pass 1: the new maximum of each lane. A NaN never compares greater; it enters the sum in pass 3.
    old = [load(b, lanes.row_max, offset, vector) for offset in offsets]
    start = old if lanes.factor is None else [lowest for _ in old]

    def take_maximum(at: list[ir.Value], best: list[ir.Value]) -> list[ir.Value]:
        bases = [b.mul(row, lanes.s_row) for row in at]
        following = []
        for offset, value in zip(offsets, best, strict=True):
            xs = [load(b, lanes.s, b.add(base, offset), vector) for base in bases]
            while len(xs) > 1:  # pairwise, so that only the last step waits for the last iteration
                xs = [larger(b, *pair) for pair in zip(xs[::2], xs[1::2], strict=True)]
            following.append(larger(b, xs[0], value))
        return following

    new = for_rows(b, lanes.rows, AT_ONCE // len(offsets), start, take_maximum)
    if lanes.factor is not None:  # in log2 units, as row_max is
        new = [larger(b, b.fmul(x, lanes.factor), before) for x, before in zip(new, old, strict=True)]

    # Pass 2: lanes whose maximum grew by more than MOST_ABOVE take the new one. `rescale` is the factor for
    # sums under the old one. A lane with no visible key yet keeps row_max = -inf. It is replaced by 0 in the
    # exponent: exp2(-inf - 0) = 0, while -inf + inf would be NaN.
    grows = [
        b.fcmp_ordered(">", b.fsub(now, before), constant(vector, MOST_ABOVE))
        for before, now in zip(old, new, strict=True)
    ]
    growing = [b.bitcast(grow, ir.IntType(vector.count)) for grow in grows]
    any_lane = growing[0]
    for bits in growing[1:]:
        any_lane = b.or_(any_lane, bits)
    with b.if_then(b.icmp_unsigned("!=", any_lane, ir.Constant(any_lane.type, 0))):
        b.store(ir.Constant(BOOL, 1), lanes.grew)
    shifts, totals = [], []
    for offset, before, now, grow in zip(offsets, old, new, grows, strict=True):
        reference = b.select(grow, now, before)
        store(b, reference, lanes.row_max, offset)
        shift = b.select(b.fcmp_ordered("==", reference, lowest), zero, reference)
        grown = exp2(b, b.fsub(before, shift))
        store(b, grown, lanes.rescale, offset)
        shifts.append(shift)
        totals.append(b.fmul(load(b, lanes.row_sum, offset, vector), grown))
    return shifts, totals


def _online_softmax(builder: ir.IRBuilder, element: ir.Type, *, scaled: bool) -> ir.Function:
    vector = full_vector(element)
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, s_row, rows, lanes, row_max, row_sum, rescale, *rest = args
        factor = splat(b, rest[0], vector.count) if scaled else None
        grew_at = b.alloca(BOOL)
        b.store(ir.Constant(BOOL, 0), grew_at)
        state = Lanes(s, s_row, rows, row_max, row_sum, rescale, grew_at, factor)

        def group(offsets: list[ir.Value]) -> None:
            shifts, totals = raise_maximum(b, state, vector, offsets)

            # Pass 3: s becomes p, and row_sum += p.
            def exponentiate(at: list[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
                for row in at:
                    base = b.mul(row, s_row)
                    following = []
                    for offset, shift, value in zip(offsets, shifts, sums, strict=True):
                        place = b.add(base, offset)
                        p = exp2(b, moved(b, load(b, s, place, vector), shift, factor))
                        store(b, p, s, place)
                        following.append(b.fadd(value, p))
                    sums = following
                return sums

            at_once = AT_ONCE // len(offsets)
            for offset, value in zip(offsets, for_rows(b, rows, at_once, totals, exponentiate), strict=True):
                store(b, value, row_sum, offset)

        for_lane_groups(b, lanes, vector, group)
        b.ret(b.load(grew_at))

    signature = [pointer, INT, INT, INT, pointer, pointer, pointer, *[element] * scaled]
    name = f"fb.softmax.{'scaled.' * scaled}{overload(vector)}"
    return function(builder, name, signature, body, result=BOOL)


def moved(b: ir.IRBuilder, x: ir.Value, shift: ir.Value, factor: ir.Value | None) -> ir.Value:
    """factor * x - shift."""
    return b.fsub(x, shift) if factor is None else fma(b, x, factor, b.fneg(shift))


def _probabilities(builder: ir.IRBuilder, element: ir.Type, *, scaled: bool) -> ir.Function:
    vector = full_vector(element)
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, s_row, rows, lanes, lse2, *rest = args
        factor = splat(b, rest[0], vector.count) if scaled else None

        def group(offsets: list[ir.Value]) -> None:
            shifts = [load(b, lse2, offset, vector) for offset in offsets]
            with loop(b, rows, carry=[]) as (row, _, _):
                base = b.mul(row, s_row)
                for offset, shift in zip(offsets, shifts, strict=True):
                    at = b.add(base, offset)
                    store(b, exp2(b, moved(b, load(b, s, at, vector), shift, factor)), s, at)

        for_lane_groups(b, lanes, vector, group)

    signature = [pointer, INT, INT, INT, pointer, *[element] * scaled]
    return function(builder, f"fb.probabilities.{'scaled.' * scaled}{overload(vector)}", signature, body)


def _score_gradients(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp, p, s_row, rows, lanes, delta = args

        def group(offsets: list[ir.Value]) -> None:
            means = [load(b, delta, offset, vector) for offset in offsets]
            with loop(b, rows, carry=[]) as (row, _, _):
                base = b.mul(row, s_row)
                for offset, mean in zip(offsets, means, strict=True):
                    at = b.add(base, offset)
                    difference = b.fsub(load(b, dp, at, vector), mean)
                    store(b, b.fmul(load(b, p, at, vector), difference), dp, at)

        for_lane_groups(b, lanes, vector, group)

    signature = [pointer, pointer, INT, INT, INT, pointer]
    return function(builder, f"fb.gradients.{overload(vector)}", signature, body)


def _factor_type(s: Any, factor: Any) -> Any:
    return types.none if factor is types.none else s.dtype


@intrinsic
def online_softmax(
    typingctx: Any, s: Any, s_row: Any, rows: Any, lanes: Any, lane_state: Any, factor: Any
) -> Any:
    """One online-softmax step (Milakov & Gimelshein 2018) over a tile of scores.

    lane_state: pointers to row_max, row_sum and rescale, one number per lane. factor: multiplies s first, to
    give log2 units; positive; None: s is in log2 units.

    s becomes exp2(s - row_max). row_max and row_sum are updated; row_max is the maximum, or up to 8 below it.
    rescale becomes exp2(old row_max - new row_max). Returns whether row_max changed in any lane.
    """
    n = types.intp
    signature = types.boolean(s, n, n, n, lane_state, _factor_type(s, factor))

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element, scaled = ELEMENTS[signature.args[0].dtype], signature.args[-1] is not types.none
        made = _online_softmax(builder, element, scaled=scaled)
        grew = builder.call(made, spread(builder, args if scaled else args[:-1]))
        return context.cast(builder, grew, types.boolean, types.boolean)

    return signature, codegen


@intrinsic
def probabilities(typingctx: Any, s: Any, s_row: Any, rows: Any, lanes: Any, lse2: Any, factor: Any) -> Any:
    """s becomes p = exp2(factor * s - lse2), recomputed in the backward pass. lse2: one number per lane.

    factor: None if s is in log2 units.
    """
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element, scaled = ELEMENTS[signature.args[0].dtype], signature.args[-1] is not types.none
        builder.call(_probabilities(builder, element, scaled=scaled), args if scaled else args[:-1])
        return context.get_dummy_value()

    return types.void(s, n, n, n, s, _factor_type(s, factor)), codegen


@intrinsic
def score_gradients(typingctx: Any, dp: Any, p: Any, s_row: Any, rows: Any, lanes: Any, delta: Any) -> Any:
    """dp becomes ds = p * (dp - delta). delta: one number per lane."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_score_gradients(builder, ELEMENTS[signature.args[0].dtype]), args)
        return context.get_dummy_value()

    return types.void(dp, dp, n, n, n, dp), codegen
