"""The micro-kernel on tile registers: one product computes all products of attention in bfloat16.

C[rows, columns] (+)= A[rows, depth] @ B[depth, columns], in units of tiles. Blocks of 2 x 2 tiles of C stay
in registers for the whole depth: each tile of A and of B that is loaded then serves two dots.

An operand may consist of parts, as a float16 number is the sum of two of bfloat16 (split.py). Then a step of
the depth adds several products of parts to the same registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.elements import HalfType
from flashbench.codegen.intrinsics import element_of, spread
from flashbench.codegen.ir import BOOL, INT, const, function, loop
from flashbench.codegen.tiles import ROW_BYTES, ROW_WORDS, TILE_ROWS

_BYTES = ir.IntType(8).as_pointer()
_A, _B = (4, 5), (6, 7)  # tile registers; the four before them are of C
BLOCK = {(i, j): 2 * i + j for i in (0, 1) for j in (0, 1)}  # registers of a whole block of C

# (part of A, part of B) of each product. Part 1 of A lies half a step of the depth behind part 0, that of B
# half a row. From one product to the next only one operand changes, so that the other one need not be loaded.
Parts = tuple[tuple[int, int], ...]
WHOLE: Parts = ((0, 0),)


class _Operand(NamedTuple):
    """Where an operand lies, in bytes. down, right: from one tile to the next. low: from part 0 to part 1."""

    at: ir.Value
    row: ir.Value
    down: ir.Value
    right: ir.Value
    low: ir.Value

    def tile(self, b: ir.IRBuilder, row: ir.Value, column: ir.Value, part: int = 0) -> ir.Value:
        place = b.add(b.mul(row, self.down), b.mul(column, self.right))
        return b.gep(self.at, [b.add(place, self.low) if part else place])


def _operand(b: ir.IRBuilder, at: ir.Value, row: ir.Value, right: ir.Value | None = None) -> _Operand:
    low = b.sdiv(row if right is None else right, const(2))
    return _Operand(at, row, b.mul(row, const(TILE_ROWS)), const(ROW_BYTES) if right is None else right, low)


def _pairs(b: ir.IRBuilder, count: ir.Value) -> Iterator[tuple[ir.Value, int]]:
    """(index, 2) of each pair of tiles, then (index, 1) of the one that is left."""
    with loop(b, count, step=2, carry=[]) as (index, _, _):
        yield index, 2
    with loop(b, count, start=b.mul(b.sdiv(count, const(2)), const(2)), carry=[]) as (index, _, _):
        yield index, 1


class Loads(NamedTuple):
    """How the tiles of A and B of one step of the depth are loaded, if registers do not hold them already.

    a, b: (row or column of the block, part) to (place, bytes from row to row).
    """

    a: Callable[[int, int], tuple[ir.Value, ir.Value]]
    b: Callable[[int, int], tuple[ir.Value, ir.Value]]
    held: dict[int, int]  # register to part


def put_dots(tiles: Any, sums: dict[tuple[int, int], int], parts: tuple[int, int], loads: Loads) -> None:
    """One product of parts in a block of C: each dot as soon as its operands are loaded."""
    of_a, of_b = parts
    for i, j in sorted(sums, key=sum):
        for register, load, place, part in ((_A[i], loads.a, i, of_a), (_B[j], loads.b, j, of_b)):
            if loads.held.get(register) != part:
                tiles.load(register, *load(place, part))
                loads.held[register] = part
        tiles.dot(sums[i, j], _A[i], _B[j])


def _block(
    b: ir.IRBuilder,
    tiles: Any,
    operands: tuple[_Operand, ...],
    depth: ir.Value,
    accumulate: ir.Value,
    place: Any,
    parts: Parts,
) -> None:
    """One block of C. place: (row, tiles in it), (column, tiles in it)."""
    a, b_, c = operands
    (row, high), (column, wide) = place
    rows = [b.add(row, const(i)) for i in range(high)]
    columns = [b.add(column, const(j)) for j in range(wide)]
    sums = {(i, j): i * wide + j for i in range(high) for j in range(wide)}
    places = {(i, j): c.tile(b, rows[i], columns[j]) for i, j in sums}
    with b.if_else(accumulate) as (add, begin):
        with add:
            for key, tile in sums.items():
                tiles.load(tile, places[key], c.row)
        with begin:
            for tile in sums.values():
                tiles.zero(tile)
    with loop(b, depth, carry=[]) as (step, _, _):
        loads = Loads(
            lambda i, part: (a.tile(b, rows[i], step, part), a.row),
            lambda j, part: (b_.tile(b, step, columns[j], part), b_.row),
            held={},
        )
        for pair in parts:
            put_dots(tiles, sums, pair, loads)
    for key, tile in sums.items():
        tiles.store(tile, places[key], c.row)


def _product(builder: ir.IRBuilder, kind: Any, parts: Parts) -> ir.Function:
    """kind: HardwareTiles or EmulatedTiles."""

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        a_at, a_row, b_at, b_row, c_at, c_row, a_right, rows, columns, depth, accumulate = args
        tiles = kind(b)
        operands = _operand(b, a_at, a_row, a_right), _operand(b, b_at, b_row), _operand(b, c_at, c_row)
        for of_rows in _pairs(b, rows):
            for of_columns in _pairs(b, columns):
                _block(b, tiles, operands, depth, accumulate, (of_rows, of_columns), parts)

    signature = [*[_BYTES, INT] * 3, INT, INT, INT, INT, BOOL]
    of_parts = ".".join(f"{of_a}{of_b}" for of_a, of_b in parts)
    return function(builder, f"fb.tile_product.{kind.name}.{of_parts}", signature, body)


def tile_product(kind: Any, parts: Parts = WHOLE) -> Any:
    """The intrinsic `multiply` on this kind of tile registers, of operands in these parts."""

    @intrinsic
    def multiply(
        typingctx: Any,
        a: Any,
        b: Any,
        c: Any,
        a_right: Any,
        rows: Any,
        columns: Any,
        depth: Any,
        accumulate: Any,
    ) -> Any:
        """C[rows, columns] = A[rows, depth] @ B[depth, columns], counted in tiles; += if `accumulate`.

        a, b, c: a `Matrix` each, with strides in elements. a has rows of bfloat16, b rows of pairs, c rows of
        float32. a_right: elements from a tile of a to the next along the depth; the tiles of a row of b and c
        lie side by side.
        """
        n = types.intp
        signature = types.void(a, b, c, n, n, n, n, types.boolean)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            values = []
            for place in (0, 1, 2):
                size = 2 if isinstance(element_of(signature.args[place]), HalfType) else 4
                at, row = spread(builder, [args[place]])
                values += [builder.bitcast(at, _BYTES), builder.mul(row, const(size))]
            right = builder.mul(args[3], const(2))
            add = builder.icmp_unsigned("!=", args[-1], ir.Constant(args[-1].type, 0))
            builder.call(_product(builder, kind, parts), [*values, right, *args[4:-1], add])
            return context.get_dummy_value()

        return signature, codegen

    return multiply


@intrinsic
def square_of(typingctx: Any, like: Any) -> Any:
    """Memory for one tile of sums, in the stack frame of the caller: a pointer as `like` is."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = args[0].type.pointee
        return cgutils.alloca_once(builder, kind, size=const(TILE_ROWS * ROW_WORDS), name="square")

    return like(like), codegen
