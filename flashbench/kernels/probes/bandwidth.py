"""The memory's read bandwidth: every core sums an array of its own."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from flashbench.codegen.compiled import compiled
from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    full_vector,
    function,
    load,
    loop,
    round_down,
    size_of,
    sum_of_lanes,
)
from flashbench.codegen.pointers import pointer, prefetch
from flashbench.threads.pool import run_on_threads

# Independent sums, so that the loop waits for memory and never for an addition.
_ACCUMULATORS = 8
# Prefetch distance. A core can wait for a limited number of lines at once, and its own prefetcher keeps fewer
# in flight. With this prefetch a read is 15 to 20 % faster (Sapphire Rapids).
_AHEAD_BYTES = 1024
_LINE_BYTES = 64
# How long the first touch waits for a late thread. Without its thread, memory may lie on another socket than
# its reader: the result is right, but the read is slower.
_PATIENCE_S = 1.0


def _sum(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    full = full_vector(element)
    single = ir.VectorType(element, 1)

    def body(b: ir.IRBuilder, x: ir.Value, count: ir.Value) -> None:
        # Pass 1: whole groups of vectors.
        step = full.count * _ACCUMULATORS
        zero = constant(full, 0.0)
        with loop(b, count, step=step, carry=[zero] * _ACCUMULATORS) as (index, before, after):
            for number, total in enumerate(before):
                place = b.add(index, const(number * full.count))
                if number * full.count * size_of(element) % _LINE_BYTES == 0:
                    ahead = b.add(place, const(_AHEAD_BYTES // size_of(element)))
                    prefetch(b, b.gep(x, [ahead]))
                after.append(b.fadd(total, load(b, x, place, full)))
        result = after[0]
        for total in after[1:]:
            result = b.fadd(result, total)
        result = sum_of_lanes(b, result)

        # Pass 2: the remaining numbers, one by one.
        done = round_down(b, count, step)
        first = ir.Constant(single, [0.0])
        with loop(b, count, start=done, carry=[first]) as (index, before, after):
            after.append(b.fadd(before[0], load(b, x, index, single)))
        b.ret(b.fadd(result, sum_of_lanes(b, after[0])))

    return function(builder, "fb.sum", [element.as_pointer(), INT], body, result=element)


@intrinsic
def _sum_at(typingctx: Any, x: Any, count: Any) -> Any:
    """The sum of x[:count]."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_sum(builder, ELEMENTS[signature.args[0].dtype]), args)

    return x.dtype(x, types.intp), codegen


@compiled
def _sum_of_doubles(zero, address, count):
    return _sum_at(pointer(zero, address), count)


def sum_of(x: NDArray[np.float64]) -> float:
    """The sum of a contiguous array of doubles, computed without the GIL."""
    return float(_sum_of_doubles(0.0, x.ctypes.data, x.size))


class SharedMemory:
    """An array of ones, one part per thread. Each part lies in the memory nearest to its reader."""

    def __init__(self, size_bytes: int, num_threads: int) -> None:
        """Allocate size_bytes, rounded down to whole doubles per thread. Each thread touches its own part."""
        self._parts = [np.empty(size_bytes // (8 * num_threads)) for _ in range(num_threads)]
        self._owned: dict[int, int] = {}  # thread -> its part
        arrived = threading.Barrier(num_threads)

        def touch(slot: int) -> None:
            self._parts[slot].fill(1.0)
            self._owned[threading.get_ident()] = slot
            with suppress(threading.BrokenBarrierError):
                arrived.wait(_PATIENCE_S)

        run_on_threads(touch, num_threads)
        for part in set(range(num_threads)) - set(self._owned.values()):
            self._parts[part].fill(1.0)

    @property
    def size_bytes(self) -> int:
        """Bytes that one `read` reads."""
        return sum(part.nbytes for part in self._parts)

    def read(self) -> float:
        """The sum of all parts. Each thread reads its own part, then parts of late threads."""
        left = set(range(len(self._parts)))
        sums: list[float] = []
        lock = threading.Lock()

        def take(wanted: int | None) -> int | None:
            with lock:
                part = wanted if wanted in left else next(iter(left), None)
                left.discard(part)
            return part

        def work(_: int) -> None:
            part = take(self._owned.get(threading.get_ident()))
            while part is not None:
                sums.append(sum_of(self._parts[part]))
                part = take(None)

        run_on_threads(work, len(self._parts))
        return sum(sums)
