"""The machine's multiply-add peak, measured with the vectors that the kernels use."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.ir import fma, full_vector, function, loop, splat, sum_of_lanes
from flashbench.codegen.isa import ISA
from flashbench.dtypes import Dtype, accumulator_of
from flashbench.threads.pool import run_on_threads

# As many independent sums as the largest product tile has: enough to cover the latency.
_ACCUMULATORS = max(rows * vectors for vectors, rows in ISA.tile_rows.items())


@intrinsic
def _fma_chain(typingctx: Any, factor: Any, term: Any, iterations: Any) -> Any:
    """Repeat total = total * factor + term in _ACCUMULATORS vectors at once; returns their sum."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        element = ELEMENTS[signature.args[0]]
        lanes = full_vector(element).count

        def body(b: ir.IRBuilder, factor: ir.Value, term: ir.Value, iterations: ir.Value) -> None:
            factors, terms = splat(b, factor, lanes), splat(b, term, lanes)
            with loop(b, iterations, carry=[terms] * _ACCUMULATORS) as (_, totals, following):
                following += [fma(b, total, factors, terms) for total in totals]
            sums = [sum_of_lanes(b, total) for total in following]
            result = sums[0]
            for value in sums[1:]:
                result = b.fadd(result, value)
            b.ret(result)

        signature_types = [element, element, ir.IntType(64)]
        return builder.call(function(builder, "fb.fma_chain", signature_types, body, result=element), args)

    return factor(factor, factor, types.intp), codegen


@compiled
def _fma_burst(factor, term, iterations):
    return _fma_chain(factor, term, iterations)


def fma_burst(dtype: Dtype, iterations: int, num_threads: int) -> int:
    """Keep the multiply-add units of num_threads cores busy. Returns the floating-point operations done.

    It multiplies and adds in the dtype's accumulator: float32 for 16-bit floats.
    """
    accumulator = accumulator_of(dtype)
    number = np.dtype(accumulator.storage).type
    factor, term = number(0.999), number(0.001)  # converges to 1: neither overflow nor denormals
    taken: list[int] = []  # a late pool thread does no work and must not be counted

    def work(slot: int) -> None:
        _fma_burst(factor, term, iterations)
        taken.append(slot)

    run_on_threads(work, num_threads)
    return 2 * ISA.lanes(accumulator.itemsize) * _ACCUMULATORS * iterations * len(taken)
