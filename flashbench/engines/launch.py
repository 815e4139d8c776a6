"""Launch a kernel: the struct of a call made from NumPy arrays, the call's memory, and its threads."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import CELL_BYTES, pack_struct
from flashbench.dtypes import accumulator_of, is_half
from flashbench.engines import Array, Settings
from flashbench.kernels.call import structs
from flashbench.kernels.call.structs import Numbers, Sequence, Sizes, Work
from flashbench.kernels.flash.gather import COPY, REFUSED
from flashbench.kernels.flash.scratch import WHOLE
from flashbench.problem import AttentionProblem, Direction
from flashbench.system.cores import available_cores
from flashbench.threads.pool import run_on_threads

# Gather k and v only if each row is read by at least this many queries. Measured from 64 to 4096 tokens. At
# 256 the gain depends on whether the memory of the copies is new to the process.
_WORTH_GATHERING = 512
# Up to this batch size a Python loop over the sequences is faster than calls to NumPy.
FEW_SEQUENCES = 8

# To wake a thread costs about 100 us. With fewer floating-point operations per thread than this, that is more
# than it saves. The second limit is for few queries: they wait for memory, so a thread pays off earlier.
FLOPS_PER_THREAD = 20_000_000
_READING_FLOPS_PER_THREAD = 4_000_000

# L1: 4096 bytes span all sets, 8 ways each.
_SETS_BYTES, _WAYS = 4096, 8

# tasks(seqlen_q, seqlen_k): tasks per head of a sequence. Takes integers or arrays of them.
Tasks = Callable[[Any, Any], Any]

Made = TypeVar("Made")

COLUMN = Sequence(*range(len(Sequence._fields)))  # column indices of a table of sequences, by name


def scattered(row_bytes: int, rows: int) -> bool:
    """Whether `rows` rows, row_bytes apart, evict each other from the first-level cache.

    Rows of one head of a (batch, seqlen, heads, head_dim) array fall into few sets of the cache.
    """
    return _SETS_BYTES // math.gcd(row_bytes, _SETS_BYTES) * _WAYS < rows


def useful_threads(flops: int, tiles: int, num_threads: int, *, reading: bool = False) -> int:
    """How many of the threads are worth waking. reading: few queries, so that memory limits the speed."""
    least = _READING_FLOPS_PER_THREAD if reading else FLOPS_PER_THREAD
    return max(1, min(num_threads, tiles, flops // least))


def result_like(x: Array, head_dim: int, *, zeros: bool = False) -> Array:
    """A new array (batch, heads, rows, head_dim) with x's batch, heads, rows and memory order.

    If x is a view of a (batch, seqlen, heads, head_dim) array, so is the result. Its user will merge the
    heads again, and then needs no copy.
    """
    batch, heads, rows, _ = x.shape
    make = np.zeros if zeros else np.empty
    if 0 < x.strides[1] < x.strides[2]:
        return make((batch, rows, heads, head_dim), x.dtype).transpose(0, 2, 1, 3)
    return make((batch, heads, rows, head_dim), x.dtype)


def threads_for(
    problem: AttentionProblem, direction: Direction, settings: Settings, *, reading: bool = False
) -> int:
    """The number of threads of a call: `num_threads` or all cores, but only as many as are worth waking."""
    rows = problem.num_heads * problem.query_rows
    threads = settings.num_threads or available_cores()
    return useful_threads(problem.flops(direction), rows, threads, reading=reading)


def readable(array: Array) -> Array:
    """The array itself if a kernel can read it, else a contiguous copy.

    A kernel takes any strides of batch and head. Elements of a row must be contiguous and aligned, and the
    stride of rows a multiple of the element size.
    """
    itemsize = array.itemsize
    rows_in_one_piece = array.strides[-1] == itemsize or array.shape[-1] == 1
    if rows_in_one_piece and array.strides[-2] % itemsize == 0 and array.flags.aligned:
        return array
    return np.ascontiguousarray(array)


def gathered_room(x: Array, readers: float) -> Array:
    """A new array to gather x into, each head contiguous; x itself if gathering does not pay.

    It pays if the rows are scattered and enough queries read each row. readers: queries per row of x.
    """
    row_bytes, size = x.strides[2], x.shape[3] * x.itemsize
    # A broadcast array (stride 0) would grow when copied.
    shared = 0 in (step for step, count in zip(x.strides, x.shape, strict=True) if count > 1)
    if shared or readers < _WORTH_GATHERING or row_bytes <= size or not scattered(row_bytes, x.shape[2]):
        return x
    return np.empty(x.shape, x.dtype)


def sums_room(output: Array, problem: AttentionProblem, readers: float) -> Array:
    """The array in which dk or dv grows: the output, a contiguous room for it, or one of float32."""
    if is_half(problem.dtype):
        return np.empty(output.shape, accumulator_of(problem.dtype).storage)
    return gathered_room(output, readers)


def tile_is_scattered(x: Array, rows: int) -> bool:
    """Whether a task should work on a copy of its tile of `rows` rows of x."""
    row_bytes = x.strides[2]
    return row_bytes > x.shape[3] * x.itemsize and scattered(row_bytes, min(rows, x.shape[2]))


class Operand(NamedTuple):
    """An array of keys as a product reads it, made by a move. It lives as long as `memory` does."""

    kind: int  # see kernels/flash/gather.py
    source: Array
    memory: NDArray[np.uint8]
    target: structs.Array


def operand_of(kind: int, x: Array, problem: AttentionProblem, columns: int) -> Operand:
    """Memory for x, (batch, num_kv_heads, rows, head_dim), in blocks of keys of `columns` 16-bit numbers."""
    block_bytes = WHOLE * columns * 2
    entries, head = operand_blocks(problem)
    head_bytes = head * block_bytes
    memory, address = aligned_scratch(entries * problem.num_kv_heads * head_bytes)
    target = structs.Array(address, problem.num_kv_heads * head_bytes, head_bytes, block_bytes // x.itemsize)
    return Operand(kind, x, memory, target)


def operand_blocks(problem: AttentionProblem) -> tuple[int, int]:
    """(entries of the batch, blocks of keys of a head in one entry). Each sequence begins with a block."""
    if problem.packed:
        return 1, problem.key_rows // WHOLE + problem.batch + 1
    return problem.batch, -(-problem.seqlen_k // WHOLE)


def moves_table(*moves: tuple[Array, Array], operands: Iterable[Operand] = ()) -> NDArray[np.int64] | None:
    """The table of moves (source, target): one `Move` per row, of shape, then kind. None: nothing to move."""
    rows = [
        (*place(source), *place(target), *source.shape, COPY)
        for source, target in moves
        if source is not target
    ]
    rows += [(*place(x.source), *x.target, *x.source.shape, x.kind) for x in operands]
    return np.array(rows, dtype=np.int64) if rows else None


def place(x: Array) -> structs.Array:
    """The address and strides of an array of the storage type."""
    return structs.Array(*_place(x))


def place_numbers(x: Array) -> Numbers:
    """The address and strides of an array of the accumulator type, or of lse, (batch, heads, rows)."""
    return Numbers(*_place(x))


def _place(x: Array) -> tuple[int, int, int, int]:
    batch, head, row = x.strides[:3]
    return address_of(x), batch, head, row // x.itemsize


def sizes_of(problem: AttentionProblem, block_q: int, block_k: int) -> Sizes:
    heads, kv_heads = problem.num_heads, problem.num_kv_heads
    return Sizes(heads, kv_heads, heads // kv_heads, problem.head_dim, problem.head_dim_v, block_q, block_k)


class Counters(NamedTuple):
    """Numbers of counters that the threads of a call share; see `Work`. All are initially zero."""

    tickets: int
    finite: int = 0
    progress: int = 0

    @property
    def bytes(self) -> int:
        return CELL_BYTES * sum(self)


def kept_for_small_batches(make: Callable[..., Made]) -> Callable[..., Made]:
    """make(problem, ...) with its results kept: for a small problem they take longer to make than attention.

    Those of larger batches are not kept, as their tables of sequences are long.
    """
    kept = functools.lru_cache(maxsize=256)(make)

    @functools.wraps(make)
    def made(problem: AttentionProblem, *args: Any) -> Made:
        return (kept if problem.batch <= FEW_SEQUENCES else make)(problem, *args)

    made.cache_clear = kept.cache_clear  # type: ignore[attr-defined]
    return made


class Rows(NamedTuple):
    """A table with one struct per row, and its address: NumPy takes half a microsecond to return it."""

    table: NDArray[np.int64]
    address: int

    @classmethod
    def of(cls, table: NDArray[np.int64]) -> Rows:
        return cls(table, address_of(table))


class CallMemory:
    """The memory of a call: scratch per thread, counters, tables. It must live until the call is over."""

    def __init__(
        self,
        threads: int,
        stride: int,  # bytes of scratch per thread
        counters: Counters,
        sequences: Rows,
        moves: NDArray[np.int64] | None = None,
    ) -> None:
        self._threads, self._counters = threads, counters
        self._cells = np.zeros(sum(counters), dtype=np.int64)
        self._sequences = sequences
        self._moves = moves
        self._stride = stride
        self._scratch, self._scratch_address = aligned_scratch(threads * stride)

    @property
    def refused(self) -> bool:
        """Whether a product met a number with which it cannot compute exactly: see gather.py."""
        return bool(self._cells[1] >= REFUSED)

    def work(self, tasks: int = 0) -> Work:
        """The `Work` struct of the call."""
        tickets, moves = address_of(self._cells), self._moves
        finite = tickets + CELL_BYTES * self._counters.tickets
        return Work(
            self._threads,
            tasks,
            self._sequences.address,
            len(self._sequences.table),
            0 if moves is None else address_of(moves),
            0 if moves is None else len(moves),
            tickets,
            finite,
            finite + CELL_BYTES * self._counters.finite,
            self._scratch_address,
            self._stride,
        )


class Launch:
    """One call on several threads. call: a struct of kernels/ with a field `work`.

    All arrays whose addresses are in the call must live until the last `run` returns.
    """

    def __init__(self, call: Any, threads: int) -> None:
        self._table = array("q", pack_struct(call))
        self._threads = threads
        self._tickets = call.work.tickets

    def run(self, kernel: Any, *options: Any, ticket: int = 0) -> None:
        """Run a kernel of the call. ticket: index of its task counter in work.tickets."""
        address = self._table.buffer_info()[0]

        def work(slot: int) -> None:
            kernel(address, slot, *options)

        run_on_threads(work, self._threads, self._tickets + CELL_BYTES * ticket)


def no_tasks(seqlen_q: Any, seqlen_k: Any) -> Any:
    """0 tasks: for a table whose reader does not use tiles_before."""
    return 0 * seqlen_q


def sequence_table(problem: AttentionProblem, tasks: Tasks) -> NDArray[np.int64]:
    """The table of sequences of a problem: one `Sequence` per row."""
    table = np.empty((problem.batch, len(COLUMN)), dtype=np.int64)
    if problem.batch <= FEW_SEQUENCES:
        before = 0
        for row, sequence in zip(table, problem.sequences(), strict=True):
            lengths = sequence.seqlen_q, sequence.seqlen_k
            row[:] = (*sequence, problem.diagonal_of(*lengths), before)
            before += tasks(*lengths)
        return table
    table[:, COLUMN.batch] = 0 if problem.packed else np.arange(problem.batch)
    table[:, COLUMN.first_query] = table[:, COLUMN.first_key] = 0
    table[:, COLUMN.seqlen_q] = problem.seqlen_q if problem.query_lengths is None else problem.query_lengths
    table[:, COLUMN.seqlen_k] = problem.seqlen_k if problem.key_lengths is None else problem.key_lengths
    seqlen_q: Any = table[:, COLUMN.seqlen_q]
    seqlen_k: Any = table[:, COLUMN.seqlen_k]
    if problem.packed:
        np.cumsum(seqlen_q[:-1], out=table[1:, COLUMN.first_query])
        np.cumsum(seqlen_k[:-1], out=table[1:, COLUMN.first_key])
    table[:, COLUMN.diagonal] = problem.diagonal_of(seqlen_q, seqlen_k)
    table[0, COLUMN.tiles_before] = 0
    np.cumsum(tasks(seqlen_q, seqlen_k)[:-1], out=table[1:, COLUMN.tiles_before])
    return table


def broadcast_gradient(dmask: Array, shape: tuple[int, ...]) -> Array:
    """dmask broadcast to `shape` by strides of 0, writable: values added along such an axis sum up."""
    strides = [0 if size == 1 else step for size, step in zip(dmask.shape, dmask.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(dmask, shape, strides)


def aligned_scratch(size: int) -> tuple[NDArray[np.uint8], int]:
    """(buffer, address): `address` is the start of `size` bytes, aligned to a cache line, in `buffer`.

    The buffer must live as long as the address is used.
    """
    buffer = np.empty(size + ALIGNMENT, dtype=np.uint8)
    address = address_of(buffer)
    return buffer, address + -address % ALIGNMENT


def address_of(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
