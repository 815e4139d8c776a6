"""Scores of the next keys on tile registers, issued among the exponentials of these keys.

A core starts instructions out of order, but only within some five hundred. The loads, dots and stores of one
block of tiles are as many. So they must stand between the exponentials, a few at a time, to run beside them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import INT, const, function, loop
from flashbench.codegen.tiles import ROW_BYTES, TILE_ROWS
from flashbench.kernels.products.exponentiate import GROUP, NUMBERS, ROUNDED, Group, Scores, Words
from flashbench.kernels.products.tile_multiply import WHOLE, Parts
from flashbench.kernels.products.words import FLOAT, VECTOR

KEYS = 2 * TILE_ROWS  # of a part, and lanes of a block of two by two tiles
_BLOCK_LANES = 2 * TILE_ROWS
_VECTORS = max(GROUP, _BLOCK_LANES // VECTOR.count)
LANES = _VECTORS * VECTOR.count  # lanes of a group of vectors: whole blocks
# Rows that are exponentiated after each product of a step. Of several products, so few that they last.
_ROWS_BETWEEN, _ROWS_BETWEEN_PARTS = 4, 2
_BYTES = ir.IntType(8).as_pointer()
_SUMS, _A, _B = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}, (4, 5), (6, 7)  # tile registers


class _Progress:
    """Writes exponentials a few rows at a time, and knows how far they are."""

    def __init__(self, b: ir.IRBuilder, group: Group) -> None:
        self._group = group
        self.row: ir.Value = const(0)
        self.sums = group.load_sums(b)

    @property
    def values(self) -> list[ir.Value]:
        return [self.row, *self.sums]

    @values.setter
    def values(self, values: list[ir.Value]) -> None:
        self.row, *self.sums = values

    def advance(self, b: ir.IRBuilder, rows: int) -> None:
        end = b.add(self.row, const(rows))
        end = b.select(b.icmp_signed("<", end, const(KEYS)), end, const(KEYS))
        with loop(b, end, start=self.row, step=2, carry=self.sums) as (row, values, following):
            following += self._group.put(b, row, 2, values)
        self.row, self.sums = end, following


class _Block(NamedTuple):
    """Where a block of two by two tiles of C = A B lies. Rows in bytes."""

    a: ir.Value
    a_row: ir.Value
    b: ir.Value
    b_row: ir.Value
    c: ir.Value
    c_row: ir.Value


def _moved(b: ir.IRBuilder, at: ir.Value, *bytes_: ir.Value) -> ir.Value:
    for step in bytes_:
        at = b.gep(at, [step])
    return at


def _block(
    b: ir.IRBuilder, tiles: Any, progress: _Progress, place: _Block, depth: ir.Value, parts: Parts
) -> None:
    """A block of C, and exponentials after each product of each of its steps."""
    of_parts = 2 if len(parts) > 1 else 1  # parts of an operand
    rows_between = _ROWS_BETWEEN if of_parts == 1 else _ROWS_BETWEEN_PARTS
    for tile in _SUMS.values():
        tiles.zero(tile)
    right = const(ROW_BYTES)
    a_down, b_down, c_down = (b.mul(row, const(TILE_ROWS)) for row in (place.a_row, place.b_row, place.c_row))
    b_low = b.sdiv(place.b_row, const(2))
    with loop(b, depth, carry=progress.values) as (step, values, following):
        progress.values = values
        of_a = _moved(b, place.a, b.mul(step, const(of_parts * ROW_BYTES)))
        of_b = _moved(b, place.b, b.mul(step, b_down))
        held: dict[int, int] = {}  # the part that a register holds
        for part_a, part_b in parts:
            for (i, j), tile in _SUMS.items():
                if held.get(_A[i]) != part_a:
                    tiles.load(_A[i], _moved(b, of_a, *[a_down] * i, *[right] * part_a), place.a_row)
                if held.get(_B[j]) != part_b:
                    tiles.load(_B[j], _moved(b, of_b, *[right] * j, *[b_low] * part_b), place.b_row)
                held |= {_A[i]: part_a, _B[j]: part_b}
                tiles.dot(tile, _A[i], _B[j])
            progress.advance(b, rows_between)
        following += progress.values
    progress.values = following
    for (i, j), tile in _SUMS.items():
        tiles.store(tile, _moved(b, place.c, *[c_down] * i, *[right] * j), place.c_row)
    progress.advance(b, rows_between)


def _overlapped(builder: ir.IRBuilder, kind: Any, words: Words, parts: Parts) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, lanes, row_max, row_sum, factor, a_at, a_row, b_at, c_at, depth = args
        tiles, c_row = kind(b), b.mul(lanes, const(4))
        b_row = b.mul(c_row, const(2)) if len(parts) > 1 else c_row
        scores = Scores(s, lanes, row_max, row_sum, factor)
        with loop(b, lanes, step=LANES, carry=[]) as (lane, _, _):
            offsets = [b.add(lane, const(i * VECTOR.count)) for i in range(_VECTORS)]
            group = Group(b, scores, offsets, words)
            progress = _Progress(b, group)
            for block in range(0, LANES, _BLOCK_LANES):
                column = b.mul(b.add(lane, const(block)), const(4))
                place = _Block(a_at, a_row, b.gep(b_at, [column]), b_row, b.gep(c_at, [column]), c_row)
                _block(b, tiles, progress, place, depth, parts)
            group.store_sums(b, group.put_rest(b, progress.row, const(KEYS), progress.sums))

    signature = [NUMBERS, INT, NUMBERS, NUMBERS, FLOAT, _BYTES, INT, _BYTES, _BYTES, INT]
    return function(builder, f"fb.overlapped.{kind.name}.{words.name}", signature, body)


def overlapped_product(kind: Any, words: Words = ROUNDED, parts: Parts = WHOLE) -> Any:
    """The intrinsic on this kind of tile registers. words: of p. parts: of the products of scores."""

    @intrinsic
    def exponentiate_and_multiply(
        typingctx: Any,
        s: Any,
        lanes: Any,
        lane_state: Any,
        factor: Any,
        keys: Any,
        packed: Any,
        scores: Any,
        depth: Any,
    ) -> Any:
        """`exponentiate` for KEYS rows of s, and scores = keys @ packed for KEYS other keys.

        lane_state: pointers to row_max and row_sum. keys: a `Matrix` of bfloat16. lanes: a multiple of LANES.
        depth: in tiles.
        """
        n = types.intp
        signature = types.void(s, n, lane_state, types.float32, keys, packed, scores, n)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            s, lanes, row_max, row_sum, factor, a, a_row, packed, scores, depth = spread(builder, args)
            a, packed, scores = (builder.bitcast(x, _BYTES) for x in (a, packed, scores))
            row_bytes = builder.mul(a_row, const(2))
            values = [s, lanes, row_max, row_sum, factor, a, row_bytes, packed, scores, depth]
            builder.call(_overlapped(builder, kind, words, parts), values)
            return context.get_dummy_value()

        return signature, codegen

    return exponentiate_and_multiply
