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

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles, tile_config, tile_release
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.exponentiate import exponentiate_rows
from flashbench.kernels.products.fma import no_state
from flashbench.kernels.products.gradient_weights import put_gradient_weights
from flashbench.kernels.products.overlap import KEYS, LANES, overlapped_product
from flashbench.kernels.products.pairs import (
    clear_lanes,
    finish_exact_scores,
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
def _sums(room, lanes, columns):
    return Sums(room, 1, lanes)


@step
def _scale(sums, queries, columns, factors):
    scale_lanes(sums.at, sums.column, columns, factors)


@step
def _put(target, sums, queries, columns, factors):
    put_turned(target.at, target.row, sums.at, sums.column, queries, columns, factors)


@step
def copy_corner(target, source, height, width):
    for row in range(height):
        for column in range(width):
            at(target.at, row * target.row + column)[0] = at(source.at, row * source.row + column)[0]


def _product(kind: Any, begin: Any, end: Any) -> Product:
    """The product on this kind of tile registers."""
    multiply, overlapped = tile_product(kind), overlapped_product(kind)

    @step
    def scores(s, keys, packed, lanes, rows, depth):
        q, result, columns = Matrix(packed, lanes), Matrix(s, lanes), lanes // TILE_ROWS
        multiply(keys, q, result, DEPTH, tiles_in(rows), columns, depth_in(depth), False)

    @step
    def weigh_and_score(tile, of_next, packed, lanes, depth):
        s, count, row_max, row_sum, factor = tile
        next_s, rows, keys = of_next
        if count == KEYS and rows == KEYS and lanes % LANES == 0:
            overlapped(s, lanes, (row_max, row_sum), factor, keys, packed, next_s, depth_in(depth))
        else:
            exponentiate_rows(tile, lanes)
            scores(next_s, keys, packed, lanes, rows, depth)

    @step
    def add_to_queries(w, lanes, x, sums, queries, columns, keys, add):
        p, result, right = Matrix(w, 4 * lanes), Matrix(sums.at, sums.column), whole(columns, DEPTH) * DEPTH
        multiply(x, p, result, right, tiles_in(columns), lanes // TILE_ROWS, depth_in(keys), add)

    @step
    def add_corner(p, x, sums, height, width, depth, add):
        """The same for a tile of sums that is not a whole one: in a square of its own."""
        square = Matrix(square_of(sums.at), TILE_ROWS)
        if add:
            copy_corner(square, sums, height, width)
        multiply(p, x, square, DEPTH, 1, 1, depth, add)
        copy_corner(sums, square, height, width)

    @step
    def add_to_keys(w, lanes, x, sums, keys, columns, queries, add):
        p, depth = Matrix(w, whole(lanes, DEPTH)), depth_in(queries)
        clear_lanes(w, p.row, queries, keys)
        whole_rows, whole_columns = keys // TILE_ROWS, columns // TILE_ROWS
        multiply(p, x, sums, DEPTH, whole_rows, whole_columns, depth, add)
        for i in range(tiles_in(keys)):
            for j in range(whole_columns if i < whole_rows else 0, tiles_in(columns)):
                row, column = i * TILE_ROWS, j * TILE_ROWS
                height, width = min(TILE_ROWS, keys - row), min(TILE_ROWS, columns - column)
                corner = Matrix(at(sums.at, row * sums.row + column), sums.row)
                of_x = Matrix(at(x.at, 2 * column), x.row)
                add_corner(Matrix(at(w, row * p.row), p.row), of_x, corner, height, width, depth, add)

    @step
    def gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms):
        put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, whole(lanes, DEPTH))

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
        gradient_weights=gradient_weights,
        scores=scores,
        weigh_and_score=weigh_and_score,
        finish_scores=finish_exact_scores,
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
