"""The online softmax of 16-bit floats, in two passes over a tile: the maximum, then the exponential.

As in softmax.py, queries are lanes. The second pass can run over a part of the keys, so that the next tile's
products can be issued between two parts: tile registers then work while vectors are exponentiated. It leaves
p as `pairs.weights` does, in words (p[2j, lane], p[2j + 1, lane]) of two rounded numbers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    full_vector,
    function,
    load,
    loop,
    overload,
    splat,
    store,
)
from flashbench.kernels.maths.exp2 import exp2
from flashbench.kernels.products.pairs import clear_lines, rounded_pairs, store_words
from flashbench.kernels.tile.softmax import Lanes, for_lane_groups, moved, raise_maximum

_FLOAT = ir.FloatType()
_VECTOR = full_vector(_FLOAT)
_NUMBERS = _FLOAT.as_pointer()


def _maximum(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, row_max, row_sum, rescale, factor = args
        grew_at = b.alloca(BOOL)
        b.store(ir.Constant(BOOL, 0), grew_at)
        factors = splat(b, factor, _VECTOR.count)
        state = Lanes(s, lanes, rows, row_max, row_sum, rescale, grew_at, factors)

        def group(offsets: list[ir.Value]) -> None:
            _, totals = raise_maximum(b, state, _VECTOR, offsets)
            for offset, total in zip(offsets, totals, strict=True):
                store(b, total, row_sum, offset)

        for_lane_groups(b, lanes, _VECTOR, group)
        b.ret(b.load(grew_at))

    signature = [_NUMBERS, INT, INT, _NUMBERS, _NUMBERS, _NUMBERS, _FLOAT]
    return function(builder, f"fb.maximum.{overload(_VECTOR)}", signature, body, result=BOOL)


def _exponentiate(builder: ir.IRBuilder) -> ir.Function:
    lowest, zero = constant(_VECTOR, float("-inf")), constant(_VECTOR, 0.0)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, rows, lanes, row_max, row_sum, factor = args
        words, factors = b.bitcast(s, ir.IntType(32).as_pointer()), splat(b, factor, _VECTOR.count)

        def group(offsets: list[ir.Value]) -> None:
            shifts = []
            for offset in offsets:
                reference = load(b, row_max, offset, _VECTOR)
                shifts.append(b.select(b.fcmp_ordered("==", reference, lowest), zero, reference))

            def put(row: ir.Value, count: int, sums: list[ir.Value]) -> list[ir.Value]:
                """The words of one row, or of two rows, and the new sums."""
                following = []
                for offset, shift, value in zip(offsets, shifts, sums, strict=True):
                    place = b.add(b.mul(row, lanes), offset)
                    p = [zero, zero]
                    for i in range(count):
                        x = load(b, s, b.add(place, b.mul(lanes, const(i))), _VECTOR)
                        p[i] = exp2(b, moved(b, x, shift, factors), for_halves=True)
                        value = b.fadd(value, p[i])
                    store_words(b, rounded_pairs(b, *p), words, place)
                    following.append(value)
                return following

            sums = [load(b, row_sum, offset, _VECTOR) for offset in offsets]
            with loop(b, rows, step=2, carry=sums) as (row, values, following):
                following += put(row, 2, values)
            last = b.sub(rows, const(1))
            with loop(b, b.and_(rows, const(1)), carry=list(following)) as (_, values, of_last):
                of_last += put(last, 1, values)
            for offset, value in zip(offsets, of_last, strict=True):
                store(b, value, row_sum, offset)

        for_lane_groups(b, lanes, _VECTOR, group)
        clear_lines(b, words, rows, lanes, b.mul(lanes, const(2)))

    signature = [_NUMBERS, INT, INT, _NUMBERS, _NUMBERS, _FLOAT]
    return function(builder, f"fb.exponentiate.{overload(_VECTOR)}", signature, body)


@intrinsic
def put_maximum(typingctx: Any, s: Any, rows: Any, lanes: Any, lane_state: Any, factor: Any) -> Any:
    """The first pass of an online softmax step: row_max and rescale, and row_sum under the new maximum.

    Arguments and result: see `online_softmax`; factor is a number, and positive.
    """
    signature = types.boolean(s, types.intp, types.intp, lane_state, types.float32)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        grew = builder.call(_maximum(builder), spread(builder, args))
        return context.cast(builder, grew, types.boolean, types.boolean)

    return signature, codegen


@intrinsic
def exponentiate(
    typingctx: Any, s: Any, rows: Any, lanes: Any, row_max: Any, row_sum: Any, factor: Any
) -> Any:
    """The second pass over some rows of s: words of p = exp2(factor * s - row_max), and row_sum += p.

    Words of rows from `rows` up to a multiple of 32 become zero. rows: even, but for the tile's last part.
    """
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_exponentiate(builder), args)
        return context.get_dummy_value()

    return types.void(s, n, n, s, s, types.float32), codegen
