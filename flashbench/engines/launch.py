"""From NumPy arrays to a kernel's addresses and strides, and the scratch it works in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT, aligned
from flashbench.engines import Array, Settings
from flashbench.kernels.call.features import (
    BATCH_INDEX,
    DIAGONAL,
    FIRST_KEY,
    FIRST_QUERY,
    SEQLEN_K,
    SEQLEN_Q,
    SEQUENCE_COLUMNS,
    TILES_BEFORE,
)
from flashbench.kernels.flash.gather import MOVE_COLUMNS
from flashbench.problem import AttentionProblem, Direction
from flashbench.system.cores import available_cores

BYTE = np.uint8(0)  # tells the compiler what a bool mask is made of

# Queries: rows that fewer read are not worth bringing together first. Measured from 64 to 4096 tokens; in
# between, at 256, it depends on whether the copies' memory is new to the process.
_WORTH_MOVING = 512
# Of a batch: for so few the calls to NumPy would take longer than a loop.
_FEW_SEQUENCES = 8

# Under this many floating-point operations a thread costs more to wake, some 100 us, than it saves; of few
# queries under fewer, which wait for memory.
FLOPS_PER_THREAD = 20_000_000
_READING_FLOPS_PER_THREAD = 4_000_000
# tasks(seqlen_q, seqlen_k) of a head of a sequence, of numbers or of arrays of them alike.
Tasks = Callable[[Any, Any], Any]


# Of the first-level cache: lines of so many addresses have sets of their own, and so many of a set a place.
_SETS_BYTES, _WAYS = 4096, 8


def scattered(row_bytes: int, rows: int) -> bool:
    """Whether rows so far from each other push each other out of the first-level cache: those of one head of
    a (batch, seqlen, heads, head_dim) array fall into few of its sets.
    """
    return _SETS_BYTES // math.gcd(row_bytes, _SETS_BYTES) * _WAYS < rows


def useful_threads(flops: int, tiles: int, num_threads: int, *, reading: bool = False) -> int:
    """How many of the threads are worth waking; reading: for so few queries that memory decides."""
    least = _READING_FLOPS_PER_THREAD if reading else FLOPS_PER_THREAD
    return max(1, min(num_threads, tiles, flops // least))


def result_like(x: Array, head_dim: int, *, zeros: bool = False) -> Array:
    """Room for a result of x's batch, heads and rows, its memory in x's order: (b, h, s, d), or (b, s, h, d)
    for views of such arrays, whose owners will merge the heads again and so need not copy.
    """
    batch, heads, rows, _ = x.shape
    make = np.zeros if zeros else np.empty
    if 0 < x.strides[1] < x.strides[2]:
        return make((batch, rows, heads, head_dim), x.dtype).transpose(0, 2, 1, 3)
    return make((batch, heads, rows, head_dim), x.dtype)


def threads_for(
    problem: AttentionProblem, direction: Direction, settings: Settings, *, reading: bool = False
) -> int:
    """How many threads a call uses: those asked for, or every core, and no more than are worth waking."""
    rows = problem.num_heads * problem.query_rows
    threads = settings.num_threads or available_cores()
    return useful_threads(problem.flops(direction), rows, threads, reading=reading)


def readable(array: Array) -> Array:
    """The array itself where a kernel can read it, else a copy.

    A kernel takes any strides but one: elements of a row are neighbours, at addresses that are whole
    multiples of their size.
    """
    itemsize = array.itemsize
    rows_in_one_piece = array.strides[-1] == itemsize or array.shape[-1] == 1
    if rows_in_one_piece and array.strides[-2] % itemsize == 0 and array.flags.aligned:
        return array
    return np.ascontiguousarray(array)


def near_room(x: Array, readers: float) -> Array:
    """Room for x with a head's rows side by side, where they lie scattered and are each read for so many
    queries; else x itself, which does as it lies.
    """
    row_bytes, size = x.strides[2], x.shape[3] * x.itemsize
    shared = 0 in (step for step, count in zip(x.strides, x.shape, strict=True) if count > 1)  # would grow
    if shared or readers < _WORTH_MOVING or row_bytes <= size or not scattered(row_bytes, x.shape[2]):
        return x
    return np.empty(x.shape, x.dtype)


def moves_table(*moves: tuple[Array, Array]) -> NDArray[np.int64]:
    """One row for each array that is brought elsewhere, in the columns of kernels/flash/gather.py."""
    rows = [
        (*_place(source), *_place(target), *source.shape) for source, target in moves if source is not target
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), MOVE_COLUMNS)


def rooms_for(tiles: list[tuple[Array, int]], stride: int) -> tuple[list[int], int]:
    """Where a thread's scratch of `stride` bytes has room for a tile of each array, of so many rows, if these
    lie scattered, else 0; and the stride with that.
    """
    rooms = []
    for array, rows in tiles:
        row_bytes, size = array.strides[2], array.shape[3] * array.itemsize
        if row_bytes > size and scattered(row_bytes, min(rows, array.shape[2])):
            rooms.append(stride)
            stride += aligned(rows * size)
        else:
            rooms.append(0)
    return rooms, stride


def array_table(*arrays: Array) -> NDArray[np.int64]:
    """One row an array: address, batch and head stride in bytes, row stride in elements."""
    return np.array([_place(array) for array in arrays], dtype=np.int64)


def _place(array: Array) -> tuple[int, int, int, int]:
    batch, head, row = array.strides[:3]
    return address_of(array), batch, head, row // array.itemsize


def no_tasks(seqlen_q: Any, seqlen_k: Any) -> Any:
    """For a table whose reader counts no tasks."""
    return 0 * seqlen_q


def sequence_table(problem: AttentionProblem, tasks: Tasks) -> NDArray[np.int64]:
    """One row a sequence, in the columns of kernels/call/features.py."""
    table = np.empty((problem.batch, SEQUENCE_COLUMNS), dtype=np.int64)
    if problem.batch <= _FEW_SEQUENCES:
        before = 0
        for row, sequence in zip(table, problem.sequences(), strict=True):
            lengths = sequence.seqlen_q, sequence.seqlen_k
            row[:] = (*sequence, problem.diagonal_of(*lengths), before)
            before += tasks(*lengths)
        return table
    table[:, BATCH_INDEX] = 0 if problem.packed else np.arange(problem.batch)
    table[:, FIRST_QUERY] = table[:, FIRST_KEY] = 0
    table[:, SEQLEN_Q] = problem.seqlen_q if problem.query_lengths is None else problem.query_lengths
    table[:, SEQLEN_K] = problem.seqlen_k if problem.key_lengths is None else problem.key_lengths
    seqlen_q: Any = table[:, SEQLEN_Q]
    seqlen_k: Any = table[:, SEQLEN_K]
    if problem.packed:
        np.cumsum(seqlen_q[:-1], out=table[1:, FIRST_QUERY])
        np.cumsum(seqlen_k[:-1], out=table[1:, FIRST_KEY])
    table[:, DIAGONAL] = problem.diagonal_of(seqlen_q, seqlen_k)
    table[0, TILES_BEFORE] = 0
    np.cumsum(tasks(seqlen_q, seqlen_k)[:-1], out=table[1:, TILES_BEFORE])
    return table


def broadcast_gradient(dmask: Array, shape: tuple[int, ...]) -> Array:
    """dmask with this shape and strides of 0 where it has 1: what is added along such an axis adds up."""
    strides = [0 if size == 1 else step for size, step in zip(dmask.shape, dmask.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(dmask, shape, strides)


def aligned_scratch(size: int) -> tuple[NDArray[np.uint8], int]:
    """A buffer, to be kept alive, and the address of `size` bytes in it that begin a cache line."""
    buffer = np.empty(size + ALIGNMENT, dtype=np.uint8)
    address: int = buffer.__array_interface__["data"][0]
    return buffer, address + -address % ALIGNMENT


def address_of(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
