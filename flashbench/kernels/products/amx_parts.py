"""Numbers of more bits than bfloat16's on tile registers of bfloat16: sums of parts, and products of parts.

float16 is h + l. Scores are exact: (h + l) (h + l) are four products. Their errors would be magnified: p is
exponential in them, and backward computes p from lse, which another path may have written. Other products are
linear in their operands, and leave out l l: at most 2^-14 of each term, an eighth of what rounding to float16
adds.

float32 is h + m + l. Six products leave out m l, l m and l l: some 2^-24 of each term, which is what float32
rounds away. They need numbers whose parts are normal, see `IN_RANGE`.
"""

from __future__ import annotations

from typing import Any

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.tiles import DEPTH, TILE_ROWS, EmulatedTiles, HardwareTiles
from flashbench.kernels.products import Matrix, Product
from flashbench.kernels.products.on_tiles import Operands, PartsOf, product_on_tiles, whole
from flashbench.kernels.products.parts import layouts_of
from flashbench.kernels.products.split import HALVES, THIRDS, Split
from flashbench.kernels.products.tile_multiply import Parts
from flashbench.kernels.products.weights import IN_HALVES, IN_THIRDS, Words, clear_numbers
from flashbench.kernels.products.words import halves

_H, _M, _L = 0, 1, 2
_ALL_OF_HALVES: Parts = ((1, 1), (1, _H), (_H, _H), (_H, 1))
_LINEAR_OF_HALVES: Parts = ((1, _H), (_H, _H), (_H, 1))
# The smallest products first: sums keep more of them.
_OF_THIRDS: Parts = ((_L, _H), (_M, _H), (_M, _M), (_H, _M), (_H, _L), (_H, _H))


def _operands(split: Split, words: Words) -> Operands:
    layouts, parts = layouts_of(split), split.parts

    @step
    def pack(x, rows, columns, packed, lanes, factor):
        layouts.pack(x, rows, columns, packed, lanes)

    @step
    def keys(x, rows, columns, room):
        layouts.rows(x, rows, columns, room, whole(rows, TILE_ROWS))
        return Matrix(halves(room), parts * whole(columns, DEPTH))

    @step
    def values(x, rows, columns, room):
        layouts.turn(x, rows, columns, room)
        return Matrix(halves(room), DEPTH)

    @step
    def turned(keys, rows, columns, room):
        layouts.turn_rows(keys, rows, columns, room)
        return Matrix(halves(room), DEPTH)

    @step
    def queries(x, rows, columns, room):
        layouts.pairs(x, rows, columns, room)
        return Matrix(halves(room), 2 * parts * whole(columns, DEPTH))

    @step
    def key_weights(p, lanes, rows, room):
        layouts.rows(Matrix(p, lanes), rows, lanes, room, rows)
        return halves(room)

    @step
    def clear(w, lanes, first, rows):
        width = whole(lanes, DEPTH)
        for line in range(rows * parts):
            clear_numbers(at(w, line * width), first, width)

    return Operands(parts, words, pack, keys, values, turned, queries, key_weights, clear)


_OF_FLOAT16, _OF_FLOAT32 = _operands(HALVES, IN_HALVES), _operands(THIRDS, IN_THIRDS)


def _product(kind: Any, name: str, operands: Operands, scores: Parts, sums: Parts) -> Product:
    return product_on_tiles(kind, name, operands, PartsOf(scores, sums))


AMX_F16 = _product(HardwareTiles, "amx_f16", _OF_FLOAT16, _ALL_OF_HALVES, _LINEAR_OF_HALVES)
AMX_F16_EMULATED = _product(EmulatedTiles, "amx_f16-emulated", _OF_FLOAT16, _ALL_OF_HALVES, _LINEAR_OF_HALVES)
AMX_SPLIT = _product(HardwareTiles, "amx_split", _OF_FLOAT32, _OF_THIRDS, _OF_THIRDS)
AMX_SPLIT_EMULATED = _product(EmulatedTiles, "amx_split-emulated", _OF_FLOAT32, _OF_THIRDS, _OF_THIRDS)
