"""bfloat16 on tile registers: Intel's AMX, or the same calls emulated on any CPU.

A tile of scores has queries as columns, as for all products. So every product has them on the same side:

    s = k q^T         A: rows of k, where they lie        B: q, packed as pairs
    o^T += v^T p^T    A: v, transposed (turned.py)        B: p as pairs, made in place
    dv += p^T do      A: p in rows of 16-bit numbers      B: do as pairs of rows

Sums of a tile of queries lie transposed, [column, lane]. All operands are padded with zeros to whole tiles;
where rows of k end within a tile, or its columns do, a padded copy is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles, tile_config, tile_release
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.fma import no_state
from flashbench.kernels.products.pairs import (
    clear_lanes,
    halves,
    pack_pairs,
    padded_rows,
    pair_rows,
    put_key_weights,
    weights,
)
from flashbench.kernels.products.tile_multiply import square_of, tile_product
from flashbench.kernels.products.turned import put_turned, scale_lanes, turn


@step
def whole(size, unit):
    """size rounded up to a multiple of `unit`."""
    return (size + unit - 1) // unit * unit


@step
def tiles_in(size):
    """Tiles that `size` rows, or lanes, fill or begin."""
    return (size + TILE_ROWS - 1) // TILE_ROWS


@step
def depth_in(size):
    """Tiles along a sum of `size` terms."""
    return (size + DEPTH - 1) // DEPTH


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack_pairs(x, rows, columns, packed, lanes)


@step
def _keys(x, rows, columns, room):
    if rows % TILE_ROWS == 0 and columns % DEPTH == 0:
        return x
    return padded_rows(x, rows, columns, room, whole(columns, DEPTH))


@step
def _turned(x, rows, columns, room):
    turn(x.at, x.row, rows, columns, room)
    return Matrix(halves(room), DEPTH)


@step
def _key_weights(p, lanes, rows, room):
    """Rows of whole tiles: a row of the next key in the same tile could hold a NaN."""
    put_key_weights(p, lanes, rows, room, whole(lanes, DEPTH))
    return halves(room)


@step
def _finish_scores(s, count, factor, needs_units):
    if needs_units:
        put_multiple(s, s, count, factor)
        return np.float32(1)
    return factor


@step
def _sums(room, lanes, columns):
    return Sums(room, 1, lanes)


@step
def _scale(sums, queries, columns, factors):
    scale_lanes(sums.at, sums.column, columns, factors)


@step
def _put(target, sums, queries, columns, factors):
    put_turned(target.at, target.row, sums.at, sums.column, queries, columns, factors)


def _product(kind: Any, begin: Any, end: Any) -> Product:
    """The product on this kind of tile registers."""
    multiply = tile_product(kind)

    @step
    def scores(s, keys, packed, lanes, rows, depth):
        operand = Matrix(packed, lanes)
        multiply(
            keys, DEPTH, operand, Matrix(s, lanes), tiles_in(rows), lanes // TILE_ROWS, depth_in(depth), False
        )

    @step
    def add_to_queries(w, lanes, x, sums, queries, columns, keys, add):
        right = whole(columns, DEPTH) * DEPTH
        result = Matrix(sums.at, sums.column)
        operand = Matrix(w, 4 * lanes)
        multiply(x, right, operand, result, tiles_in(columns), lanes // TILE_ROWS, depth_in(keys), add)

    @step
    def add_to_keys(w, lanes, x, sums, keys, columns, queries, add):
        a, depth = Matrix(w, whole(lanes, DEPTH)), depth_in(queries)
        clear_lanes(w, a.row, queries, keys)
        whole_rows, whole_columns = keys // TILE_ROWS, columns // TILE_ROWS
        multiply(a, DEPTH, x, sums, whole_rows, whole_columns, depth, add)
        # Tiles that keys or columns only begin: in a square of its own, copied from and to the rows of sums.
        for i in range(tiles_in(keys)):
            first = whole_columns if i < whole_rows else 0
            for j in range(first, tiles_in(columns)):
                row, column = i * TILE_ROWS, j * TILE_ROWS
                height, width = min(TILE_ROWS, keys - row), min(TILE_ROWS, columns - column)
                target = at(sums.at, row * sums.row + column)
                square = square_of(sums.at)
                if add:
                    for r in range(height):
                        for c in range(width):
                            at(square, r * TILE_ROWS + c)[0] = at(target, r * sums.row + c)[0]
                corner_a = Matrix(at(a.at, row * a.row), a.row)
                corner_x = Matrix(at(x.at, 2 * column), x.row)
                multiply(corner_a, DEPTH, corner_x, Matrix(square, TILE_ROWS), 1, 1, depth, add)
                for r in range(height):
                    for c in range(width):
                        at(target, r * sums.row + c)[0] = at(square, r * TILE_ROWS + c)[0]

    return Product(
        name=kind.name,
        exact=True,
        begin=begin,
        end=end,
        pack=_pack,
        keys=_keys,
        values=_turned,
        turned=_turned,
        weights=weights,
        queries=pair_rows,
        key_weights=_key_weights,
        scores=scores,
        finish_scores=_finish_scores,
        add_to_queries=add_to_queries,
        add_to_keys=add_to_keys,
        sums=_sums,
        scale=_scale,
        put=_put,
    )


@step
def _begin():
    tile_config()


@step
def _end():
    tile_release()


AMX = _product(HardwareTiles, _begin, _end)
AMX_EMULATED = _product(EmulatedTiles, no_state, no_state)
