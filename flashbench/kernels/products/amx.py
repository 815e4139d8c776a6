"""bfloat16 on tile registers. Rows of k are read where they lie.

Where rows of k end within a tile, or its columns do, a padded copy is read.
"""

from __future__ import annotations

from typing import Any

from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles
from flashbench.kernels.products import Matrix, Product
from flashbench.kernels.products.on_tiles import Operands, PartsOf, product_on_tiles, whole
from flashbench.kernels.products.pairs import pack_pairs, padded_rows, pair_rows
from flashbench.kernels.products.tile_multiply import UNSPLIT
from flashbench.kernels.products.turned import turn
from flashbench.kernels.products.weights import ROUNDED, clear_lanes, put_key_weights
from flashbench.kernels.products.words import halves


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack_pairs(x, rows, columns, packed, lanes, lanes)


@step
def _keys(x, rows, columns, room):
    if rows % TILE_ROWS == 0 and columns % DEPTH == 0:
        return x
    return padded_rows(x, rows, columns, room, whole(columns, DEPTH))


@step
def _turned(x, rows, columns, room):
    turn(x.at, x.row, rows, columns, room)
    return Matrix(halves(room), DEPTH)


# Rows of weights are whole tiles: a row of the next key in the same tile could hold a NaN.


@step
def _key_weights(p, lanes, rows, room):
    put_key_weights(p, lanes, rows, room, whole(lanes, DEPTH))
    return halves(room)


@step
def _clear(w, lanes, first, rows):
    clear_lanes(w, whole(lanes, DEPTH), first, rows)


_OPERANDS = Operands(1, ROUNDED, _pack, _keys, _turned, _turned, pair_rows, _key_weights, _clear)


def _product(kind: Any) -> Product:
    return product_on_tiles(kind, kind.name, _OPERANDS, PartsOf(UNSPLIT, UNSPLIT))


AMX, AMX_EMULATED = _product(HardwareTiles), _product(EmulatedTiles)
