"""The machine's peak by path, measured with the vectors and instructions that the path's product uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.ir import INT, const, constant, fma, full_vector, function, loop, splat, sum_of_lanes
from flashbench.codegen.isa import ISA
from flashbench.codegen.tiles import (
    DEPTH,
    ROW_BYTES,
    ROW_WORDS,
    TILE_ROWS,
    TILES,
    HardwareTiles,
    tile_config,
    tile_release,
)
from flashbench.dtypes import DTYPES, Dtype
from flashbench.kernels.products.dot_bf16 import dot
from flashbench.threads.pool import run_on_threads

# As many independent sums as the largest product tile has: enough to cover the latency.
_ACCUMULATORS = max(rows * vectors for vectors, rows in ISA.tile_rows.items())
_WORD = np.int32(0x3C003C00)  # a pair of bfloat16, (2**-7, 2**-7)
_BLOCK = ((0, 0), (0, 1), (1, 0), (1, 1))  # tiles of sums that are in registers at once


def _chains(
    b: ir.IRBuilder, iterations: ir.Value, start: ir.Value, turn: Callable[[ir.Value], ir.Value]
) -> None:
    """Repeat total = turn(total) in _ACCUMULATORS vectors at once; return their sum."""
    with loop(b, iterations, carry=[start] * _ACCUMULATORS) as (_, totals, following):
        following += [turn(total) for total in totals]
    sums = [sum_of_lanes(b, total) for total in following]
    result = sums[0]
    for value in sums[1:]:
        result = b.fadd(result, value)
    b.ret(result)


@intrinsic
def _fma_chain(typingctx: Any, factor: Any, term: Any, iterations: Any) -> Any:
    """Repeat total = total * factor + term."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element = ELEMENTS[signature.args[0]]
        lanes = full_vector(element).count

        def body(b: ir.IRBuilder, factor: ir.Value, term: ir.Value, iterations: ir.Value) -> None:
            factors, terms = splat(b, factor, lanes), splat(b, term, lanes)
            _chains(b, iterations, terms, lambda total: fma(b, total, factors, terms))

        signature_types = [element, element, INT]
        return builder.call(function(builder, "fb.fma_chain", signature_types, body, result=element), args)

    return factor(factor, factor, types.intp), codegen


@intrinsic
def _dot_chain(typingctx: Any, word: Any, iterations: Any) -> Any:
    """Repeat total = total + the dot product of a pair of bfloat16 with itself. word: the pair."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element = ELEMENTS[types.float32]
        vector = full_vector(element)

        def body(b: ir.IRBuilder, word: ir.Value, iterations: ir.Value) -> None:
            words = splat(b, word, vector.count)
            _chains(b, iterations, constant(vector, 0.0), lambda total: dot(b, words, words, total))

        pair = ir.IntType(32)
        return builder.call(function(builder, "fb.dot_chain", [pair, INT], body, result=element), args)

    return types.float32(types.int32, types.intp), codegen


@compiled
def _fma_burst(factor, term, iterations):
    return _fma_chain(factor, term, iterations)


@compiled
def _dot_burst(word, iterations):
    return _dot_chain(word, iterations)


def fma_burst(dtype: Dtype, iterations: int, num_threads: int) -> int:
    """Keep the multiply-add units of num_threads cores busy. Returns the floating-point operations done.

    For a dtype of 16 bits, in its accumulator: its numbers are widened before they are multiplied.
    """
    number = np.dtype(DTYPES[dtype].accumulator).type
    factor, term = number(0.999), number(0.001)  # converges to 1: neither overflow nor denormals
    busy = _on_threads(lambda: _fma_burst(factor, term, iterations), num_threads)
    return 2 * ISA.lanes(number().itemsize) * _ACCUMULATORS * iterations * busy


def dot_bf16_burst(dtype: Dtype, iterations: int, num_threads: int) -> int:
    """The same with the instruction of path dot_bf16, which the CPU must have."""
    busy = _on_threads(lambda: _dot_burst(_WORD, iterations), num_threads)
    return 4 * ISA.lanes(4) * _ACCUMULATORS * iterations * busy


@intrinsic
def _tile_chain(typingctx: Any, word: Any, iterations: Any) -> Any:
    """Repeat the dots of a block of 2 x 2 tiles whose operands stay in registers. word: their elements."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word, iterations = args
        tiles, count = HardwareTiles(builder), TILE_ROWS * ROW_WORDS
        square = builder.alloca(word.type, const(count))
        with loop(builder, const(count), carry=[]) as (place, _, _):
            builder.store(word, builder.gep(square, [place]))
        for tile in range(TILES):
            tiles.load(tile, builder.bitcast(square, ir.IntType(8).as_pointer()), const(ROW_BYTES))
        with loop(builder, iterations, carry=[]):
            for i, j in _BLOCK:
                tiles.dot(2 * i + j, 4 + i, 6 + j)
        return context.get_dummy_value()

    return types.void(types.int32, types.intp), codegen


@compiled
def _tile_burst(word, iterations):
    tile_config()
    _tile_chain(word, iterations)
    tile_release()


def amx_burst(dtype: Dtype, iterations: int, num_threads: int) -> int:
    """The same on tile registers, for which this process must have the permission (system/amx.py)."""
    busy = _on_threads(lambda: _tile_burst(_WORD, iterations), num_threads)
    return 2 * TILE_ROWS * ROW_WORDS * DEPTH * len(_BLOCK) * iterations * busy


def _on_threads(burst: Callable[[], Any], num_threads: int) -> int:
    """Run the burst on each thread. Returns how many did: a late pool thread does no work."""
    taken: list[int] = []

    def work(slot: int) -> None:
        burst()
        taken.append(slot)

    run_on_threads(work, num_threads)
    return len(taken)
