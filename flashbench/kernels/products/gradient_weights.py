"""p and ds of a tile, rounded, as the products of the backward pass read them: one pass over the scores.

p = exp2(factor * s - lse2), and ds = p * (dp - delta). `add_to_keys` reads both in rows of 16-bit numbers,
`add_to_queries` reads ds in words of two keys, as weights.py says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    round_down,
    splat,
)
from flashbench.kernels.maths.exp2 import exp2_rounded
from flashbench.kernels.products.words import clear_lines, put_rounded, rounded_pairs, store_words

_SHORT, _WORD, _FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
_VECTOR = full_vector(_FLOAT)
_NUMBERS = _FLOAT.as_pointer()


class _Tile(NamedTuple):
    """Pointers to s, to dp, which the words of ds replace, to lse2 and delta, and to the rows of p and ds.

    width: numbers from row to row of p and ds.
    """

    s: ir.Value
    dp: ir.Value
    lse2: ir.Value
    delta: ir.Value
    lanes: ir.Value
    factors: ir.Value  # a vector
    p_rows: ir.Value
    ds_rows: ir.Value
    width: ir.Value


def _put(b: ir.IRBuilder, tile: _Tile, row: ir.Value, rows: int, lane: ir.Value, vectors: int) -> None:
    """One row or two, some vectors of lanes."""
    offsets = [b.add(lane, const(i * _VECTOR.count)) for i in range(vectors)]
    shifts = [b.fneg(load(b, tile.lse2, offset, _VECTOR)) for offset in offsets]
    means = [load(b, tile.delta, offset, _VECTOR) for offset in offsets]
    ds = [[constant(_VECTOR, 0.0)] * vectors for _ in range(2)]
    for i in range(rows):
        number = b.add(row, const(i))
        base = b.mul(number, tile.lanes)
        p = []
        for j, offset in enumerate(offsets):
            place = b.add(base, offset)
            x = fma(b, load(b, tile.s, place, _VECTOR), tile.factors, shifts[j])
            p.append(exp2_rounded(b, x))
            ds[i][j] = b.fmul(p[j], b.fsub(load(b, tile.dp, place, _VECTOR), means[j]))
        start = b.add(b.mul(number, tile.width), lane)
        put_rounded(b, p, tile.p_rows, start)
        put_rounded(b, ds[i], tile.ds_rows, start)
    words, line = b.bitcast(tile.dp, _WORD.as_pointer()), b.mul(b.sdiv(row, const(2)), tile.lanes)
    for j, offset in enumerate(offsets):
        store_words(b, rounded_pairs(b, ds[0][j], ds[1][j]), words, b.add(line, offset))


def _gradient_weights(builder: ir.IRBuilder) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, dp, lse2, delta, lanes, rows, factor, p_rows, ds_rows, width = args
        p_rows, ds_rows = (b.bitcast(x, _SHORT.as_pointer()) for x in (p_rows, ds_rows))
        tile = _Tile(s, dp, lse2, delta, lanes, splat(b, factor, _VECTOR.count), p_rows, ds_rows, width)

        def put_lines(row: ir.Value, count: int) -> None:
            done: ir.Value = const(0)
            for vectors in (2, 1):
                step = vectors * _VECTOR.count
                with loop(b, lanes, start=done, step=step, carry=[]) as (lane, _, _):
                    _put(b, tile, row, count, lane, vectors)
                done = round_down(b, lanes, step)

        with loop(b, rows, step=2, carry=[]) as (row, _, _):
            put_lines(row, 2)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_lines(b.sub(rows, const(1)), 1)
        clear_lines(b, b.bitcast(dp, _WORD.as_pointer()), rows, lanes)

    signature = [*[_NUMBERS] * 4, INT, INT, _FLOAT, _NUMBERS, _NUMBERS, INT]
    return function(builder, "fb.gradient_weights", signature, body)


@intrinsic
def put_gradient_weights(
    typingctx: Any, tiles: Any, of_lanes: Any, lanes: Any, rows: Any, factor: Any, rooms: Any, width: Any
) -> Any:
    """Make the weights of both gradients.

    tiles: pointers to s and dp; dp becomes words of ds, as `weights.weights_of` makes them. of_lanes: to lse2
    and delta. rooms: to the rows of p and of ds, as `weights.put_key_weights` makes them, `width` numbers
    apart.
    """
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(_gradient_weights(builder), spread(builder, args))
        return context.get_dummy_value()

    return types.void(tiles, of_lanes, n, n, types.float32, rooms, n), codegen
