"""The micro-kernel on tile registers: one product computes all products of attention in bfloat16.

C[rows, columns] (+)= A[rows, depth] @ B[depth, columns], in units of tiles. Blocks of 2 x 2 tiles of C stay
in registers for the whole depth: each tile of A and of B that is loaded then serves two dots. A register
waits for its store, so a block is stored late: each of its tiles just before the next block needs its
register. So the stores of a block run beside the dots of the next.

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
from flashbench.codegen.ir import BOOL, INT, const, function, loop, round_down
from flashbench.codegen.tiles import ROW_BYTES, ROW_WORDS, TILE_ROWS

_BYTE = ir.IntType(8)
_BYTES = _BYTE.as_pointer()
_A, _B = (4, 5), (6, 7)  # tile registers; the four before them are of C
_BLOCK = 2, 2  # tiles of C: height and width


# (part of A, part of B) of each product. Where from one product to the next only one operand changes, the
# other one need not be loaded.
Parts = tuple[tuple[int, int], ...]
UNSPLIT: Parts = ((0, 0),)


class _Operand(NamedTuple):
    """Where an operand lies, in bytes. down, right: to the next tile. part: to the next part."""

    at: ir.Value
    row: ir.Value
    down: ir.Value
    right: ir.Value
    part: ir.Value

    def tile(self, b: ir.IRBuilder, row: ir.Value, column: ir.Value, part: int = 0) -> ir.Value:
        place = b.add(b.mul(row, self.down), b.mul(column, self.right))
        return b.gep(self.at, [b.add(place, b.mul(self.part, const(part))) if part else place])


def _operand(
    b: ir.IRBuilder, at: ir.Value, row: ir.Value, part: ir.Value, right: ir.Value | None = None
) -> _Operand:
    return _Operand(at, row, b.mul(row, const(TILE_ROWS)), const(ROW_BYTES) if right is None else right, part)


class _Waiting(NamedTuple):
    """A whole block whose tiles are still in registers: where they go, and bytes from row to row there."""

    places: list[ir.Value]
    row: ir.Value

    def flat(self) -> list[ir.Value]:
        return [*self.places, self.row]


def _waiting(values: list[ir.Value]) -> _Waiting:
    return _Waiting(values[:-1], values[-1])


class _Product:
    """Writes one product."""

    def __init__(
        self,
        b: ir.IRBuilder,
        tiles: Any,
        operands: list[_Operand],
        parts: Parts,
        depth: ir.Value,
        accumulate: ir.Value,
    ) -> None:
        self._b, self._tiles, self._parts = b, tiles, parts
        self._left, self._right, self._sums = operands  # A, B, C
        self._depth, self._accumulate = depth, accumulate
        size = TILE_ROWS * ROW_BYTES
        nowhere = b.alloca(_BYTE, const(_BLOCK[0] * _BLOCK[1] * size))
        places = [b.gep(nowhere, [const(i * size)]) for i in range(_BLOCK[0] * _BLOCK[1])]
        self._nothing = _Waiting(places, const(ROW_BYTES))  # to store it does no harm

    def write(self, rows: ir.Value, columns: ir.Value) -> None:
        """All of C."""
        b, (height, width) = self._b, _BLOCK
        with loop(b, rows, step=height, carry=self._nothing.flat()) as (row, outer, following):
            with loop(b, columns, step=width, carry=outer) as (column, inner, next_waiting):
                next_waiting += self._whole_block(row, column, _waiting(inner)).flat()
            following += next_waiting
        self._store_all(_waiting(following))
        last_row, last_column = (
            round_down(b, size, unit) for size, unit in ((rows, height), (columns, width))
        )
        with loop(b, rows, start=last_row, carry=[]) as (row, _, _):
            with loop(b, columns, step=width, carry=[]) as (column, _, _):
                self._block_of_rest(row, column, 1, width)
            with loop(b, columns, start=last_column, carry=[]) as (column, _, _):
                self._block_of_rest(row, column, 1, 1)
        with (
            loop(b, columns, start=last_column, carry=[]) as (column, _, _),
            loop(b, rows, step=height, carry=[]) as (row, _, _),
        ):
            self._block_of_rest(row, column, height, 1)

    def _places(self, row: ir.Value, column: ir.Value, height: int, width: int) -> list[ir.Value]:
        b = self._b
        return [
            self._sums.tile(b, b.add(row, const(i)), b.add(column, const(j)))
            for i in range(height)
            for j in range(width)
        ]

    def _whole_block(self, row: ir.Value, column: ir.Value, waiting: _Waiting) -> _Waiting:
        """Store the block that is waiting, and compute the next one."""

        def store(tile: int) -> None:
            self._tiles.store(tile, waiting.places[tile], waiting.row)

        made = _Waiting(self._places(row, column, *_BLOCK), self._sums.row)
        self._compute(row, column, _BLOCK, made.places, before=store)
        return made

    def _block_of_rest(self, row: ir.Value, column: ir.Value, height: int, width: int) -> None:
        """Compute and store a block that is not a whole one."""
        places = self._places(row, column, height, width)
        self._compute(row, column, (height, width), places, before=lambda tile: None)
        self._store_all(_Waiting(places, self._sums.row))

    def _store_all(self, waiting: _Waiting) -> None:
        for tile, place in enumerate(waiting.places):
            self._tiles.store(tile, place, waiting.row)

    def _compute(
        self,
        row: ir.Value,
        column: ir.Value,
        size: tuple[int, int],
        places: list[ir.Value],
        before: Callable[[int], None],
    ) -> None:
        """Sum a block over the whole depth. before(tile): called before a register is used."""
        b, tiles = self._b, self._tiles
        with b.if_else(self._accumulate) as (add, begin):
            with add:
                for tile in self._dots(row, column, size, const(0)):
                    before(tile)
                    tiles.load(tile, places[tile], self._sums.row)
            with begin:
                for tile in self._dots(row, column, size, const(0)):
                    before(tile)
                    tiles.zero(tile)
        with loop(b, self._depth, start=const(1), carry=[]) as (step, _, _):
            for _ in self._dots(row, column, size, step):
                pass

    def _dots(self, row: ir.Value, column: ir.Value, size: tuple[int, int], step: ir.Value) -> Iterator[int]:
        """Add one step of the depth. Yields each tile of C, then loads its operands and adds their dot."""
        b, left, right = self._b, self._left, self._right
        height, width = size
        held: dict[int, int] = {}  # the part that a register holds
        for number, (of_a, of_b) in enumerate(self._parts):
            for i in range(height):
                for j in range(width):
                    tile = i * width + j
                    if number == 0:
                        yield tile
                    if held.get(_A[i]) != of_a:
                        self._tiles.load(_A[i], left.tile(b, b.add(row, const(i)), step, of_a), left.row)
                    if held.get(_B[j]) != of_b:
                        place = right.tile(b, step, b.add(column, const(j)), of_b)
                        self._tiles.load(_B[j], place, right.row)
                    held |= {_A[i]: of_a, _B[j]: of_b}
                    self._tiles.dot(tile, _A[i], _B[j])


def _product(builder: ir.IRBuilder, kind: Any, parts: Parts) -> ir.Function:
    """kind: HardwareTiles or EmulatedTiles."""

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        a_at, a_row, b_at, b_row, c_at, c_row, right, a_part, b_part, rows, columns, depth, accumulate = args
        operands = [
            _operand(b, a_at, a_row, a_part, right),
            _operand(b, b_at, b_row, b_part),
            _operand(b, c_at, c_row, const(0)),
        ]
        _Product(b, kind(b), operands, parts, depth, accumulate).write(rows, columns)

    signature = [*[_BYTES, INT] * 3, INT, INT, INT, INT, INT, INT, BOOL]
    of_parts = ".".join(f"{of_a}{of_b}" for of_a, of_b in parts)
    return function(builder, f"fb.tile_product.{kind.name}.{of_parts}", signature, body)


def tile_product(kind: Any, parts: Parts = UNSPLIT) -> Any:
    """The intrinsic `multiply` on this kind of tile registers, of operands in these parts."""

    @intrinsic
    def multiply(
        typingctx: Any,
        a: Any,
        b: Any,
        c: Any,
        steps: Any,
        rows: Any,
        columns: Any,
        depth: Any,
        accumulate: Any,
    ) -> Any:
        """C[rows, columns] = A[rows, depth] @ B[depth, columns], counted in tiles; += if `accumulate`.

        a, b, c: a `Matrix` each, with strides in elements. a has rows of bfloat16, b rows of pairs, c rows of
        float32. steps: elements of a from a tile to the next along the depth, and from one part to the next;
        elements of b from one part to the next. The tiles of a row of b and c lie side by side.
        """
        n = types.intp
        signature = types.void(a, b, c, types.UniTuple(n, 3), n, n, n, types.boolean)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            values = []
            for place in (0, 1, 2):
                size = 2 if isinstance(element_of(signature.args[place]), HalfType) else 4
                at, row = spread(builder, [args[place]])
                values += [builder.bitcast(at, _BYTES), builder.mul(row, const(size))]
            steps = [builder.mul(step, const(2)) for step in spread(builder, [args[3]])]
            add = builder.icmp_unsigned("!=", args[-1], ir.Constant(args[-1].type, 0))
            builder.call(_product(builder, kind, parts), [*values, *steps, *args[4:-1], add])
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
