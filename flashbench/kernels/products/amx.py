"""bfloat16 on tile registers: Intel's AMX, or the same calls emulated on any CPU.

A tile of scores has queries as columns, as for all products. So every product has them on the same side:

    s = k q^T         A: rows of k, where they lie        B: q, packed as pairs
    o^T += v^T p^T    A: v, transposed (turned.py)        B: p as pairs, made in place
    dv += p^T do      A: p in rows of 16-bit numbers      B: do as pairs of rows

Sums of a tile of queries lie transposed, [column, lane]. All operands are padded with zeros to whole tiles;
where rows of k end within a tile, or its columns do, a padded copy is read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flashbench.codegen.denormals import begin_flushing, end_flushing
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles, tile_config, tile_release
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.exponentiate import exponentiate, finish_exact_scores
from flashbench.kernels.products.fma import no_gradient_weights
from flashbench.kernels.products.gradient_weights import put_gradient_weights
from flashbench.kernels.products.pairs import pack_pairs, padded_rows, pair_rows
from flashbench.kernels.products.tile_multiply import square_of, tile_product
from flashbench.kernels.products.turned import put_turned, scale_lanes, turn
from flashbench.kernels.products.weights import clear_lanes, put_key_weights, weights
from flashbench.kernels.products.words import halves


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
def _row_of_key_weights(lanes):
    """Rows of whole tiles: a row of the next key in the same tile could hold a NaN."""
    return whole(lanes, DEPTH)


@step
def _key_weights(p, lanes, rows, room):
    put_key_weights(p, lanes, rows, room, _row_of_key_weights(lanes))
    return halves(room)


@step
def _gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms):
    put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, _row_of_key_weights(lanes))


@step
def _clear_lanes(w, lanes, first, rows):
    clear_lanes(w, _row_of_key_weights(lanes), first, rows)


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


class Operands(NamedTuple):
    """How operands lie in memory, and what multiplies them: what `product_on_tiles` makes a product of."""

    name: str
    halves: int
    pack: Any
    keys: Any
    values: Any
    turned: Any
    weights: Any
    exponentiate: Any
    queries: Any
    key_weights: Any
    row_of_key_weights: Any  # (lanes): 16-bit numbers from row to row of them
    clear_lanes: Any  # (weights, lanes, first, rows): clears their lanes from `first` on
    # Steps and intrinsics (a, b, c, right, rows, columns, depth, add) as tile_multiply.py describes them.
    multiply_keys: Any  # for scores
    multiply_values: Any  # for sums over keys
    # (p, x, sums, rows, columns, lanes, queries, add): for sums over queries. rows, columns: in tiles.
    sum_over_queries: Any


def product_on_tiles(operands: Operands, begin: Any, end: Any) -> Product:
    """The product of these operands."""
    multiply_keys, multiply_values = operands.multiply_keys, operands.multiply_values
    sum_over_queries, clear, row_of = (
        operands.sum_over_queries,
        operands.clear_lanes,
        operands.row_of_key_weights,
    )
    parts = operands.halves

    @step
    def scores(s, keys, packed, lanes, rows, depth):
        q, result = Matrix(packed, parts * lanes), Matrix(s, lanes)
        multiply_keys(
            keys, q, result, parts * DEPTH, tiles_in(rows), lanes // TILE_ROWS, depth_in(depth), False
        )

    @step
    def add_to_queries(w, lanes, x, sums, queries, columns, keys, add):
        p, result = Matrix(w, 2 * parts * lanes), Matrix(sums.at, sums.column)
        right = parts * whole(columns, DEPTH) * DEPTH
        multiply_values(x, p, result, right, tiles_in(columns), lanes // TILE_ROWS, depth_in(keys), add)

    @step
    def add_corner(p, x, sums, height, width, lanes, queries, add):
        """`add_to_keys` for a tile of sums that is not a whole one: in a square of its own."""
        square = Matrix(square_of(sums.at), TILE_ROWS)
        if add:
            copy_corner(square, sums, height, width)
        sum_over_queries(p, x, square, 1, 1, lanes, queries, add)
        copy_corner(sums, square, height, width)

    @step
    def add_to_keys(w, lanes, x, sums, keys, columns, queries, add):
        p = Matrix(w, row_of(lanes))
        clear(w, lanes, queries, keys)
        whole_rows, whole_columns = keys // TILE_ROWS, columns // TILE_ROWS
        sum_over_queries(p, x, sums, whole_rows, whole_columns, lanes, queries, add)
        for i in range(tiles_in(keys)):
            for j in range(whole_columns if i < whole_rows else 0, tiles_in(columns)):
                row, column = i * TILE_ROWS, j * TILE_ROWS
                height, width = min(TILE_ROWS, keys - row), min(TILE_ROWS, columns - column)
                corner = Matrix(at(sums.at, row * sums.row + column), sums.row)
                of_x = Matrix(at(x.at, 2 * column), x.row)
                of_p = Matrix(at(w, row * p.row), p.row)
                add_corner(of_p, of_x, corner, height, width, lanes, queries, add)

    return Product(
        name=operands.name,
        exact=True,
        halves=operands.halves,
        begin=begin,
        end=end,
        pack=operands.pack,
        keys=operands.keys,
        values=operands.values,
        turned=operands.turned,
        weights=operands.weights,
        queries=operands.queries,
        key_weights=operands.key_weights,
        gradient_weights=no_gradient_weights,
        scores=scores,
        exponentiate=operands.exponentiate,
        finish_scores=finish_exact_scores,
        add_to_queries=add_to_queries,
        add_to_keys=add_to_keys,
        sums=_sums,
        scale=_scale,
        put=_put,
    )


def _product(kind: Any, begin: Any, end: Any) -> Product:
    """bfloat16 on this kind of tile registers."""
    multiply = tile_product(kind)

    @step
    def sum_over_queries(p, x, sums, rows, columns, lanes, queries, add):
        multiply(p, x, sums, DEPTH, rows, columns, depth_in(queries), add)

    product = product_on_tiles(
        Operands(
            name=kind.name,
            halves=1,
            pack=_pack,
            keys=_keys,
            values=_turned,
            turned=_turned,
            weights=weights,
            exponentiate=exponentiate,
            queries=pair_rows,
            key_weights=_key_weights,
            row_of_key_weights=_row_of_key_weights,
            clear_lanes=_clear_lanes,
            multiply_keys=multiply,
            multiply_values=multiply,
            sum_over_queries=sum_over_queries,
        ),
        begin,
        end,
    )
    return product._replace(gradient_weights=_gradient_weights)


@step
def begin_tiles():
    tile_config()
    return begin_flushing()


@step
def end_tiles(mode):
    end_flushing(mode)
    tile_release()


AMX = _product(HardwareTiles, begin_tiles, end_tiles)
AMX_EMULATED = _product(EmulatedTiles, begin_flushing, end_flushing)
