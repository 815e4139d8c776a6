"""p and ds of a tile, as the products of the backward pass read them: one pass over the scores.

p = exp2(factor * s - lse2), and ds = p * (dp - delta). `add_to_keys` reads both in rows of 16-bit numbers,
`add_to_queries` reads ds in words of two keys, as weights.py says. In parts, if the product has parts.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import INT, const, constant, fma, function, load, loop, round_down, splat
from flashbench.codegen.steps import step
from flashbench.kernels.products.weights import Words, clear_words_after
from flashbench.kernels.products.words import COUNT, FLOAT, SHORT, VECTOR, WORD, put_rounded

_NUMBERS = FLOAT.as_pointer()


class _Tile(NamedTuple):
    """Pointers to s, dp, lse2 and delta, to the rows of p and of ds, and to the words of ds.

    width: numbers from part to part of a row of p and ds.
    """

    s: ir.Value
    dp: ir.Value
    lse2: ir.Value
    delta: ir.Value
    lanes: ir.Value
    factors: ir.Value  # a vector
    p_rows: ir.Value
    ds_rows: ir.Value
    ds_words: ir.Value
    width: ir.Value


def _put_row(
    b: ir.IRBuilder, kind: Words, vectors: list[ir.Value], rows: ir.Value, start: ir.Value, width: ir.Value
) -> None:
    """The parts of some vectors of a row, `width` numbers apart."""
    for number, part in enumerate(zip(*(kind.parts_of(b, x) for x in vectors), strict=True)):
        put_rounded(b, list(part), rows, b.add(start, b.mul(width, const(number))))


def _put(
    b: ir.IRBuilder, kind: Words, tile: _Tile, row: ir.Value, rows: int, lane: ir.Value, vectors: int
) -> None:
    """One row or two, some vectors of lanes."""
    offsets = [b.add(lane, const(i * COUNT)) for i in range(vectors)]
    shifts = [b.fneg(load(b, tile.lse2, offset, VECTOR)) for offset in offsets]
    means = [load(b, tile.delta, offset, VECTOR) for offset in offsets]
    ds = [[constant(VECTOR, 0.0)] * vectors for _ in range(2)]
    row_size = b.mul(tile.width, const(kind.lines))
    for i in range(rows):
        number = b.add(row, const(i))
        base = b.mul(number, tile.lanes)
        p = []
        for j, offset in enumerate(offsets):
            place = b.add(base, offset)
            x = fma(b, load(b, tile.s, place, VECTOR), tile.factors, shifts[j])
            p.append(kind.exponential(b, x))
            ds[i][j] = b.fmul(p[j], b.fsub(load(b, tile.dp, place, VECTOR), means[j]))
        start = b.add(b.mul(number, row_size), lane)
        _put_row(b, kind, p, tile.p_rows, start, tile.width)
        _put_row(b, kind, ds[i], tile.ds_rows, start, tile.width)
    line = b.mul(b.mul(b.sdiv(row, const(2)), const(kind.lines)), tile.lanes)
    for j, offset in enumerate(offsets):
        kind.put(b, ds[0][j], ds[1][j], tile.ds_words, b.add(line, offset), tile.lanes)


def _gradient_weights(builder: ir.IRBuilder, kind: Words) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, dp, lse2, delta, lanes, rows, factor, p_rows, ds_rows, ds_words, width = args
        p_rows, ds_rows = (b.bitcast(x, SHORT.as_pointer()) for x in (p_rows, ds_rows))
        ds_words = b.bitcast(ds_words, WORD.as_pointer())
        factors = splat(b, factor, COUNT)
        tile = _Tile(s, dp, lse2, delta, lanes, factors, p_rows, ds_rows, ds_words, width)

        def put_lines(row: ir.Value, count: int) -> None:
            done: ir.Value = const(0)
            for vectors in (2, 1):
                step = vectors * COUNT
                with loop(b, lanes, start=done, step=step, carry=[]) as (lane, _, _):
                    _put(b, kind, tile, row, count, lane, vectors)
                done = round_down(b, lanes, step)

        with loop(b, rows, step=2, carry=[]) as (row, _, _):
            put_lines(row, 2)
        with b.if_then(b.trunc(rows, ir.IntType(1))):
            put_lines(b.sub(rows, const(1)), 1)
        clear_words_after(b, kind, tile.ds_words, rows, lanes)

    signature = [*[_NUMBERS] * 4, INT, INT, FLOAT, *[_NUMBERS] * 3, INT]
    return function(builder, f"fb.gradient_weights.{kind.name}", signature, body)


@cache
def gradient_weights_by(kind: Words) -> Any:
    """The step that makes the weights of both gradients for a product that reads p so."""

    @intrinsic
    def put(
        typingctx: Any, tiles: Any, of_lanes: Any, lanes: Any, rows: Any, factor: Any, rooms: Any, width: Any
    ) -> Any:
        n = types.intp

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            builder.call(_gradient_weights(builder, kind), spread(builder, args))
            return context.get_dummy_value()

        return types.void(tiles, of_lanes, n, n, types.float32, rooms, n), codegen

    @step
    def put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, width):
        """Make the weights of both gradients.

        tiles: pointers to s and dp. of_lanes: to lse2 and delta. rooms: to the rows of p and of ds, whose
        parts are `width` numbers apart, and to the words of ds, as `weights_of` makes them. These may replace
        dp, if they need no more memory: up to two lines for two rows.
        """
        put(tiles, of_lanes, lanes, rows, factor, rooms, width)

    return put_gradient_weights
