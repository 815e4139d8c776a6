"""Products on tile registers: Intel's AMX, or the same calls emulated on any CPU.

A tile of scores has queries as columns, as for all products. So every product has them on the same side:

    s = k q^T         A: rows of k                        B: q, packed as pairs
    o^T += v^T p^T    A: v, transposed (turned.py)        B: p as pairs
    dv += p^T do      A: p in rows of 16-bit numbers      B: do as pairs of rows

Sums of a tile of queries lie transposed, [column, lane]. All operands are padded with zeros to whole tiles.
An operand may consist of parts, which lie side by side in each of its rows (parts.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flashbench.codegen.denormals import begin_flushing, end_flushing
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, HardwareTiles, tile_config, tile_release
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.exponentiate import exponentiate_by, finish_exact_scores
from flashbench.kernels.products.gradient_weights import gradient_weights_by
from flashbench.kernels.products.tile_multiply import Parts, square_of, tile_product
from flashbench.kernels.products.turned import put_turned, scale_lanes
from flashbench.kernels.products.weights import Words, weights_of


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


@step
def begin_tiles():
    tile_config()
    return begin_flushing()


@step
def end_tiles(mode):
    end_flushing(mode)
    tile_release()


class Operands(NamedTuple):
    """How operands are made. Steps as `Product` has them, but for `clear`."""

    parts: int
    words: Words
    pack: Any
    keys: Any
    values: Any
    turned: Any
    queries: Any
    key_weights: Any
    clear: Any  # (w, lanes, first, rows): clears lanes of `key_weights` from `first` on


class PartsOf(NamedTuple):
    """The products of parts that each product consists of."""

    scores: Parts
    sums: Parts


def product_on_tiles(kind: Any, name: str, operands: Operands, of: PartsOf) -> Product:
    """The product of these operands on this kind of tile registers."""
    parts, clear = operands.parts, operands.clear
    multiply_keys, multiply = tile_product(kind, of.scores), tile_product(kind, of.sums)
    hardware = kind is HardwareTiles
    put_gradient_weights = gradient_weights_by(operands.words)

    @step
    def gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms):
        put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, whole(lanes, DEPTH))

    @step
    def scores(s, keys, packed, lanes, rows, depth):
        q, result = Matrix(packed, parts * lanes), Matrix(s, lanes)
        steps = DEPTH, whole(depth, DEPTH), 2 * lanes
        multiply_keys(keys, q, result, steps, tiles_in(rows), lanes // TILE_ROWS, depth_in(depth), False)

    @step
    def add_to_queries(w, lanes, x, sums, queries, columns, keys, add):
        p, result = Matrix(w, 2 * parts * lanes), Matrix(sums.at, sums.column)
        block = whole(columns, DEPTH) * DEPTH
        steps = parts * block, block, 2 * lanes
        multiply(x, p, result, steps, tiles_in(columns), lanes // TILE_ROWS, depth_in(keys), add)

    @step
    def sum_over_queries(p, x, sums, rows, columns, queries, add):
        """rows, columns: in tiles."""
        steps = DEPTH, p.row // parts, x.row // parts
        multiply(p, x, sums, steps, rows, columns, depth_in(queries), add)

    @step
    def add_corner(p, x, sums, height, width, queries, add):
        """`add_to_keys` for a tile of sums that is not a whole one: in a square of its own."""
        square = Matrix(square_of(sums.at), TILE_ROWS)
        if add:
            copy_corner(square, sums, height, width)
        sum_over_queries(p, x, square, 1, 1, queries, add)
        copy_corner(sums, square, height, width)

    @step
    def add_to_keys(w, lanes, x, sums, keys, columns, queries, add):
        p = Matrix(w, parts * whole(lanes, DEPTH))
        clear(w, lanes, queries, keys)
        whole_rows, whole_columns = keys // TILE_ROWS, columns // TILE_ROWS
        sum_over_queries(p, x, sums, whole_rows, whole_columns, queries, add)
        for i in range(tiles_in(keys)):
            for j in range(whole_columns if i < whole_rows else 0, tiles_in(columns)):
                row, column = i * TILE_ROWS, j * TILE_ROWS
                height, width = min(TILE_ROWS, keys - row), min(TILE_ROWS, columns - column)
                corner = Matrix(at(sums.at, row * sums.row + column), sums.row)
                of_x = Matrix(at(x.at, 2 * column), x.row)
                of_p = Matrix(at(w, row * p.row), p.row)
                add_corner(of_p, of_x, corner, height, width, queries, add)

    return Product(
        name=name,
        exact=True,
        parts=parts,
        begin=begin_tiles if hardware else begin_flushing,
        end=end_tiles if hardware else end_flushing,
        pack=operands.pack,
        keys=operands.keys,
        values=operands.values,
        turned=operands.turned,
        weights=weights_of(operands.words),
        queries=operands.queries,
        key_weights=operands.key_weights,
        gradient_weights=gradient_weights,
        scores=scores,
        exponentiate=exponentiate_by(operands.words),
        finish_scores=finish_exact_scores,
        add_to_queries=add_to_queries,
        add_to_keys=add_to_keys,
        sums=_sums,
        scale=_scale,
        put=_put,
    )
