"""Tile registers: eight matrices of 16 rows of 64 bytes, and the instructions of Intel AMX on them.

`HardwareTiles` writes the instructions. `EmulatedTiles` does the same arithmetic on eight tables in memory,
so that code written for tiles runs, and is tested, on any CPU.

A dot is C[i, j] += sum over k of A[i, 2k] B[k, 2j] + A[i, 2k + 1] B[k, 2j + 1]. A has rows of 32 bfloat16
numbers, B rows of 16 pairs of them, C rows of 16 float32 numbers. Denormal numbers count as zero.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.ir import (
    INT,
    VOID,
    call,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    overload,
    splat,
    store,
)

TILES = 8
TILE_ROWS = 16
ROW_BYTES = 64
ROW_WORDS = ROW_BYTES // 4
DEPTH = ROW_BYTES // 2  # bfloat16 numbers of a row of A: the terms of a sum that one dot adds

_BYTE, _WORD, _FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
_BYTES, _FLOATS = _BYTE.as_pointer(), _FLOAT.as_pointer()
_VECTOR = full_vector(_FLOAT)
_WORDS = ir.VectorType(_WORD, _VECTOR.count)


class HardwareTiles:
    """Writes AMX instructions. `tile_config` must have run in the thread that executes them.

    Tiles are numbers, places byte pointers. row_bytes: from one row in memory to the next.
    """

    name = "amx"

    def __init__(self, b: ir.IRBuilder) -> None:
        self._b = b

    def zero(self, tile: int) -> None:
        self._run("tilezero", tile)

    def load(self, tile: int, place: ir.Value, row_bytes: ir.Value) -> None:
        self._run("tileloadd64", tile, place, row_bytes)

    def store(self, tile: int, place: ir.Value, row_bytes: ir.Value) -> None:
        self._run("tilestored64", tile, place, row_bytes)

    def dot(self, c: int, a: int, b: int) -> None:
        self._run("tdpbf16ps", c, a, b)

    def _run(self, name: str, *args: Any) -> None:
        values = [ir.Constant(_BYTE, arg) if isinstance(arg, int) else arg for arg in args]
        call(self._b, f"llvm.x86.{name}", VOID, *values)


class EmulatedTiles:
    """The same calls, on registers in the stack frame of the function that is being written.

    Make it in that function's first block.
    """

    name = "amx-emulated"

    def __init__(self, b: ir.IRBuilder) -> None:
        self._b = b
        self._registers = [b.alloca(_FLOAT, const(TILE_ROWS * ROW_WORDS)) for _ in range(TILES)]

    def zero(self, tile: int) -> None:
        zeros = function(self._b, "fb.tile.zero", [_FLOATS], _zero)
        self._b.call(zeros, [self._registers[tile]])

    def load(self, tile: int, place: ir.Value, row_bytes: ir.Value) -> None:
        self._move(place, row_bytes, self._b.bitcast(self._registers[tile], _BYTES), const(ROW_BYTES))

    def store(self, tile: int, place: ir.Value, row_bytes: ir.Value) -> None:
        self._move(self._b.bitcast(self._registers[tile], _BYTES), const(ROW_BYTES), place, row_bytes)

    def dot(self, c: int, a: int, b: int) -> None:
        dot = function(self._b, "fb.tile.dot", [_FLOATS, _FLOATS, _FLOATS], _dot)
        self._b.call(dot, [self._registers[tile] for tile in (c, a, b)])

    def _move(self, *places: ir.Value) -> None:
        self._b.call(function(self._b, "fb.tile.move", [_BYTES, INT, _BYTES, INT], _move), places)


def _vectors(b: ir.IRBuilder, row: ir.Value) -> list[ir.Value]:
    """The offsets of the vectors of a row of a register."""
    first = b.mul(row, const(ROW_WORDS))
    return [b.add(first, const(start)) for start in range(0, ROW_WORDS, _VECTOR.count)]


def _zero(b: ir.IRBuilder, register: ir.Value) -> None:
    with loop(b, const(TILE_ROWS), carry=[]) as (row, _, _):
        for offset in _vectors(b, row):
            store(b, constant(_VECTOR, 0.0), register, offset)


def _move(b: ir.IRBuilder, *places: ir.Value) -> None:
    """places: source, bytes from row to row of it, target, bytes from row to row of it."""
    source, source_row, target, target_row = places
    with loop(b, const(TILE_ROWS), carry=[]) as (row, _, _):
        ends = [
            b.bitcast(b.gep(at, [b.mul(row, step)]), _FLOATS)
            for at, step in ((source, source_row), (target, target_row))
        ]
        for offset in _vectors(b, const(0)):
            store(b, load(b, ends[0], offset, _VECTOR), ends[1], offset)


def _dot(b: ir.IRBuilder, c_at: ir.Value, a_at: ir.Value, b_at: ir.Value) -> None:
    """In the order of the hardware: the sums of even and of odd k, then their sum, then C."""
    words = b.bitcast(a_at, _WORD.as_pointer())
    vectors = ROW_WORDS // _VECTOR.count
    with loop(b, const(TILE_ROWS), carry=[]) as (row, _, _):
        base = b.mul(row, const(ROW_WORDS))
        zeros = [constant(_VECTOR, 0.0)] * (2 * vectors)
        with loop(b, const(ROW_WORDS), carry=zeros) as (k, sums, following):
            factors = _pair(b, splat(b, b.load(b.gep(words, [b.add(base, k)])), _VECTOR.count))
            for place, offset in enumerate(_vectors(b, k)):
                pair = _pair(b, b.bitcast(load(b, b_at, offset, _VECTOR), _WORDS))
                for side in (0, 1):
                    total = fma(b, factors[side], pair[side], sums[2 * place + side])
                    following.append(_flushed(b, total))
        for place, offset in enumerate(_vectors(b, row)):
            total = _flushed(b, b.fadd(following[2 * place], following[2 * place + 1]))
            before = _flushed(b, load(b, c_at, offset, _VECTOR))
            store(b, _flushed(b, b.fadd(before, total)), c_at, offset)


def _pair(b: ir.IRBuilder, words: ir.Value) -> list[ir.Value]:
    """The float32 numbers of the low and of the high halves of words."""
    low = b.shl(words, ir.Constant(_WORDS, [16] * _WORDS.count))
    high = b.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * _WORDS.count))
    return [_flushed(b, b.bitcast(half, _VECTOR)) for half in (low, high)]


def _flushed(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x, with zeros of the same sign in place of denormal numbers."""
    size = call(b, f"llvm.fabs.{overload(_VECTOR)}", _VECTOR, x)
    sign = b.and_(b.bitcast(x, _WORDS), ir.Constant(_WORDS, [0x80000000] * _WORDS.count))
    tiny = b.fcmp_ordered("<", size, constant(_VECTOR, 2.0**-126))
    return b.select(tiny, b.bitcast(sign, _VECTOR), x)


def _configuration(module: ir.Module) -> ir.GlobalVariable:
    """The 64 bytes that `ldtilecfg` reads: palette 1, and for each tile the bytes of a row and its rows."""
    name = "fb.tile_configuration"
    if name in module.globals:
        return module.globals[name]
    content = bytearray(64)
    content[0] = 1
    for tile in range(TILES):
        content[16 + 2 * tile] = ROW_BYTES
        content[48 + tile] = TILE_ROWS
    kind = ir.ArrayType(_BYTE, len(content))
    made = ir.GlobalVariable(module, kind, name)
    made.linkage, made.global_constant, made.align = "internal", True, 64
    made.initializer = ir.Constant(kind, content)
    return made


@intrinsic
def tile_config(typingctx: Any) -> Any:
    """Give this thread eight tile registers of full size. It is slow: once a call of a kernel."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        place = builder.bitcast(_configuration(builder.module), _BYTES)
        call(builder, "llvm.x86.ldtilecfg", VOID, place)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def tile_release(typingctx: Any) -> Any:
    """Return the tile registers of this thread to their initial state."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        call(builder, "llvm.x86.tilerelease", VOID)
        return context.get_dummy_value()

    return types.void(), codegen
