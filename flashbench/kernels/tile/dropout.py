"""Dropout on a tile of probabilities p[key, query lane]. Random bits depend only on the pair and the seed.

Philox 4x32-10 with counter (j // 4, i, h, b) and the seed as key gives four words. The pair of query i and
key j, of head h in sequence b, is kept if word j % 4 >= `threshold`. threshold: the rate in units of 2**-32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import body_by_element
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    full_vector,
    function,
    lane_numbers,
    load,
    loop,
    overload,
    splat,
    store,
)
from flashbench.kernels.maths.philox import philox

_WORDS = 4


class Draws(NamedTuple):
    """The position of a tile in the stream of random words: its first pair, head, sequence and the seed."""

    first_key: Any
    first_query: Any
    head: Any
    sequence: Any
    seed: Any
    threshold: Any


_WORD = ir.IntType(32)


def _each_vector(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    args: tuple[ir.Value, ...],
    change: Callable[[ir.Value, ir.Value, ir.Value], None],
) -> None:
    """Call change(offset in the tile, lane, which lanes are kept) for every vector of the tile.

    args: keys, lanes, first key, first query, head, sequence, seed, threshold.
    """
    keys, lanes, first_key, first_query, head, sequence, seed, threshold = args
    count = vector.count
    at_once = min(count, 8)  # Philox computes each word in 64 bits
    last_key = b.add(first_key, keys)
    thresholds = splat(b, b.trunc(threshold, _WORD), count)

    def wide(value: ir.Value) -> ir.Value:
        return splat(b, value, at_once)

    key = [wide(b.and_(seed, const(0xFFFFFFFF))), wide(b.lshr(seed, const(32)))]
    with loop(b, lanes, step=count, carry=[]) as (lane, _, _):
        queries = [
            b.add(wide(b.add(first_query, b.add(lane, const(part)))), lane_numbers(at_once))
            for part in range(0, count, at_once)
        ]
        first_group = b.sdiv(first_key, const(_WORDS))
        groups = b.sdiv(b.add(last_key, const(_WORDS - 1)), const(_WORDS))
        with loop(b, groups, start=first_group, carry=[]) as (group, _, _):
            parts = [philox(b, [wide(group), rows, wide(head), wide(sequence)], key) for rows in queries]
            for word in range(_WORDS):
                words = _joined(b, [b.trunc(part[word], ir.VectorType(_WORD, at_once)) for part in parts])
                number = b.add(b.mul(group, const(_WORDS)), const(word))
                row = b.sub(number, first_key)
                inside = b.and_(b.icmp_signed(">=", row, const(0)), b.icmp_signed("<", row, keys))
                with b.if_then(inside):
                    kept = b.icmp_unsigned(">=", words, thresholds)
                    change(b.add(b.mul(row, lanes), lane), lane, kept)


def _joined(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    if len(parts) == 1:
        return parts[0]
    low, high = parts
    count = 2 * low.type.count
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_WORD, count), list(range(count))))


_PLACE = [INT] * 8


def _drop(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    zero = constant(vector, 0.0)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        def change(place: ir.Value, lane: ir.Value, kept: ir.Value) -> None:
            store(b, b.select(kept, load(b, args[0], place, vector), zero), args[0], place)

        _each_vector(b, vector, args[1:], change)

    return function(builder, f"fb.drop.{overload(vector)}", [element.as_pointer(), *_PLACE], body)


@intrinsic
def drop(
    typingctx: Any,
    p: Any,
    keys: Any,
    lanes: Any,
    draws: Any,
) -> Any:
    """p becomes 0 for dropped pairs. draws: a `Draws`."""
    n = types.intp
    return types.void(p, n, n, draws), body_by_element(_drop)


def _drop_gradients(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    zero = constant(vector, 0.0)
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp, p, delta, factor = args[:4]
        factors = splat(b, factor, vector.count)

        def change(place: ir.Value, lane: ir.Value, kept: ir.Value) -> None:
            probability, factor_or_zero = load(b, p, place, vector), b.select(kept, factors, zero)
            grown = b.fmul(load(b, dp, place, vector), factor_or_zero)
            difference = b.fsub(grown, load(b, delta, lane, vector))
            store(b, b.fmul(probability, difference), dp, place)
            store(b, b.fmul(probability, factor_or_zero), p, place)

        _each_vector(b, vector, args[4:], change)

    signature = [pointer, pointer, pointer, element, *_PLACE]
    return function(builder, f"fb.drop_gradients.{overload(vector)}", signature, body)


@intrinsic
def drop_gradients(
    typingctx: Any,
    dp: Any,
    p: Any,
    delta: Any,
    factor: Any,
    keys: Any,
    lanes: Any,
    draws: Any,
) -> Any:
    """dp becomes ds = p * (factor * dp - delta), and p becomes factor * p.

    The factor is 0 for a dropped pair. It is multiplied, not selected, so that NaN stays NaN.
    """
    n = types.intp
    return types.void(dp, dp, dp, dp.dtype, n, n, draws), body_by_element(_drop_gradients)
