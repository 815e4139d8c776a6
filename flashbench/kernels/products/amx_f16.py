"""float16 on tile registers of bfloat16: a number is h + l (split.py), and a product several products.

Scores are exact: (h + l) (h + l) are four products. Their errors would be magnified: p is exponential in
them, and backward computes p from lse, which another path may have written. Other products are linear in
their operands, and leave out l l: at most 2^-14 of each term, an eighth of what rounding to float16 adds.
"""

from __future__ import annotations

from typing import Any

from flashbench.codegen.denormals import begin_flushing, end_flushing
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles
from flashbench.kernels.products import Matrix, Product
from flashbench.kernels.products.amx import (
    Operands,
    begin_tiles,
    end_tiles,
    product_on_tiles,
    whole,
)
from flashbench.kernels.products.exponentiate import exponentiate_split
from flashbench.kernels.products.split import (
    pack_split,
    put_split_pairs,
    put_split_rows,
    turn_float16,
    turn_split_rows,
)
from flashbench.kernels.products.split_weights import clear_split_lanes, split_key_weights, split_weights
from flashbench.kernels.products.tile_multiply import Parts, tile_product
from flashbench.kernels.products.words import halves

_H, _L = 0, 1
_ALL: Parts = ((_L, _L), (_L, _H), (_H, _H), (_H, _L))
_LINEAR: Parts = ((_L, _H), (_H, _H), (_H, _L))
_HALF_BLOCK: Parts = ((_H, _H), (_H, _L))


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack_split(x, rows, columns, packed, lanes)


@step
def _keys(x, rows, columns, room):
    put_split_rows(x, rows, columns, room)
    return Matrix(halves(room), 2 * whole(columns, DEPTH))


@step
def _values(x, rows, columns, room):
    turn_float16(x, rows, columns, room)
    return Matrix(halves(room), DEPTH)


@step
def _turned(keys, rows, columns, room):
    turn_split_rows(keys, rows, columns, room)
    return Matrix(halves(room), DEPTH)


@step
def _queries(x, rows, columns, room):
    put_split_pairs(x, rows, columns, room)
    return Matrix(halves(room), 4 * whole(columns, DEPTH))


@step
def _row_of_key_weights(lanes):
    return 2 * lanes


def _product(kind: Any, name: str, begin: Any, end: Any) -> Product:
    multiply, multiply_half = tile_product(kind, _LINEAR), tile_product(kind, _HALF_BLOCK)

    @step
    def sum_over_queries(p, x, sums, rows, columns, lanes, queries, add):
        """A last half block of lanes has h and l in one tile, against h of x twice, then against l of x."""
        blocks = lanes // DEPTH
        if blocks > 0:
            multiply(p, x, sums, 2 * DEPTH, rows, columns, blocks, add)
        if lanes % DEPTH:
            of_p = Matrix(at(p.at, 2 * blocks * DEPTH), p.row)
            of_x = Matrix(at(x.at, blocks * TILE_ROWS * x.row), x.row)
            multiply_half(of_p, of_x, sums, 2 * DEPTH, rows, columns, 1, add or blocks > 0)

    operands = Operands(
        name=name,
        halves=2,
        pack=_pack,
        keys=_keys,
        values=_values,
        turned=_turned,
        weights=split_weights,
        exponentiate=exponentiate_split,
        queries=_queries,
        key_weights=split_key_weights,
        row_of_key_weights=_row_of_key_weights,
        clear_lanes=clear_split_lanes,
        multiply_keys=tile_product(kind, _ALL),
        multiply_values=multiply,
        sum_over_queries=sum_over_queries,
    )
    return product_on_tiles(operands, begin, end)


AMX_F16 = _product(HardwareTiles, "amx_f16", begin_tiles, end_tiles)
AMX_F16_EMULATED = _product(EmulatedTiles, "amx_f16-emulated", begin_flushing, end_flushing)
