"""Scores of the next keys on tile registers, issued among the exponentials of these keys.

A core starts instructions out of order, but only within some five hundred. The loads, dots and stores of one
block of tiles are as many. So they must stand between the exponentials, a few at a time, to run beside them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import spread
from flashbench.codegen.ir import INT, const, function, loop
from flashbench.codegen.tiles import ROW_BYTES, TILE_ROWS
from flashbench.kernels.products.exponentiate import FLOAT, GROUP, NUMBERS, VECTOR, Group, Scores

KEYS = 2 * TILE_ROWS  # of a part, and lanes of a block of two by two tiles
_BLOCK_LANES = 2 * TILE_ROWS
_VECTORS = max(GROUP, _BLOCK_LANES // VECTOR.count)
LANES = _VECTORS * VECTOR.count  # lanes of a group of vectors: whole blocks
_ROWS_BETWEEN = 4  # rows that are exponentiated after each step of a block
_BYTES = ir.IntType(8).as_pointer()


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

    def advance(self, b: ir.IRBuilder) -> None:
        end = b.add(self.row, const(_ROWS_BETWEEN))
        end = b.select(b.icmp_signed("<", end, const(KEYS)), end, const(KEYS))
        with loop(b, end, start=self.row, step=2, carry=self.sums) as (row, values, following):
            following += self._group.put(b, row, 2, values)
        self.row, self.sums = end, following


def _block(
    b: ir.IRBuilder, tiles: Any, progress: _Progress, operands: tuple[ir.Value, ...], depth: ir.Value
) -> None:
    """A block of two by two tiles of C = A B, and exponentials after each of its steps."""
    a_at, a_row, b_at, b_row, c_at = operands

    def moved(at: ir.Value, *bytes_: ir.Value) -> ir.Value:
        for step in bytes_:
            at = b.gep(at, [step])
        return at

    for tile in range(4):
        tiles.zero(tile)
    a_down, right = b.mul(a_row, const(TILE_ROWS)), const(ROW_BYTES)
    b_down = b.mul(b_row, const(TILE_ROWS))
    with loop(b, depth, carry=progress.values) as (step, values, following):
        progress.values = values
        of_a, of_b = moved(a_at, b.mul(step, right)), moved(b_at, b.mul(step, b_down))
        tiles.load(4, of_a, a_row)
        tiles.load(6, of_b, b_row)
        tiles.dot(0, 4, 6)
        tiles.load(7, moved(of_b, right), b_row)
        tiles.dot(1, 4, 7)
        tiles.load(5, moved(of_a, a_down), a_row)
        tiles.dot(2, 5, 6)
        tiles.dot(3, 5, 7)
        progress.advance(b)
        following += progress.values
    progress.values = following
    # C has the rows of B: both have a row for each lane.
    for tile, place in enumerate((c_at, moved(c_at, right), moved(c_at, b_down), moved(c_at, b_down, right))):
        tiles.store(tile, place, b_row)
    progress.advance(b)


def _overlapped(builder: ir.IRBuilder, kind: Any) -> ir.Function:
    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        s, lanes, row_max, row_sum, factor, a_at, a_row, b_at, c_at, depth = args
        tiles, row_bytes = kind(b), b.mul(lanes, const(4))
        scores = Scores(s, lanes, row_max, row_sum, factor)
        with loop(b, lanes, step=LANES, carry=[]) as (lane, _, _):
            offsets = [b.add(lane, const(i * VECTOR.count)) for i in range(_VECTORS)]
            group = Group(b, scores, offsets)
            progress = _Progress(b, group)
            for block in range(0, LANES, _BLOCK_LANES):
                column = b.mul(b.add(lane, const(block)), const(4))
                operands = a_at, a_row, b.gep(b_at, [column]), row_bytes, b.gep(c_at, [column])
                _block(b, tiles, progress, operands, depth)
            group.store_sums(b, group.put_rest(b, progress.row, const(KEYS), progress.sums))

    signature = [NUMBERS, INT, NUMBERS, NUMBERS, FLOAT, _BYTES, INT, _BYTES, _BYTES, INT]
    return function(builder, f"fb.overlapped.{kind.name}", signature, body)


def overlapped_product(kind: Any) -> Any:
    """The intrinsic on this kind of tile registers."""

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
            builder.call(_overlapped(builder, kind), values)
            return context.get_dummy_value()

        return signature, codegen

    return exponentiate_and_multiply
