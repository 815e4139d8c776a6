"""Launch a kernel: the packed struct of a call, the call's own memory, and its threads.

A `PackedCall` is made once for many calls. Each call copies its table, and fills in the addresses of its own
arrays and memory. Nothing that a call writes outlives it or is shared with another call.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import CELL_BYTES, pack_struct
from flashbench.engines import Array, Settings
from flashbench.engines.forms import Form
from flashbench.kernels.call import structs
from flashbench.kernels.call.structs import Move, MoveSizes, Numbers, Sizes, Work
from flashbench.kernels.flash.gather import COPY, REFUSED
from flashbench.kernels.flash.scratch import WHOLE
from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem, Direction
from flashbench.system.cores import available_cores
from flashbench.threads.pool import run_kernel

# Up to this batch size a Python loop over the sequences is faster than calls to NumPy.
FEW_SEQUENCES = 8

# A thread that sleeps starts some 30 us late, one that spins at once. With fewer floating-point operations
# per thread than this, some 20 us of work, to ask it costs more than it saves (measured at 64 to 256 tokens).
FLOPS_PER_THREAD = 3_000_000
# Of few queries, where to read k and v takes longest: the bytes that a thread reads in about as long.
READ_PER_THREAD = 256 * 1024

# tasks(seqlen_q, seqlen_k): tasks per head of a sequence. Takes integers or arrays of them.
Tasks = Callable[[Any, Any], Any]

COLUMN = structs.Sequence(
    *range(len(structs.Sequence._fields))
)  # column indices of a table of sequences, by name


def useful_threads(problem: AttentionProblem, direction: Direction, tiles: int, num_threads: int) -> int:
    """How many of the threads are worth waking."""
    worth = problem.flops(direction) // FLOPS_PER_THREAD
    if direction == "fwd" and problem.seqlen_q <= MOST_DECODING_QUERIES:
        worth = max(worth, problem.kv_bytes // READ_PER_THREAD)
    return max(1, min(num_threads, tiles, worth))


def runs_alone(problem: AttentionProblem, direction: Direction) -> bool:
    """Whether our engines use one thread for the problem, however many there are."""
    return useful_threads(problem, direction, 2, 2) == 1


def threads_for(problem: AttentionProblem, direction: Direction, settings: Settings) -> int:
    """The number of threads of a call: `num_threads` or all cores, but only as many as are worth waking."""
    rows = problem.num_heads * problem.query_rows
    threads = settings.num_threads or available_cores()
    return useful_threads(problem, direction, rows, threads)


def copy_move(source: Form) -> Move:
    """Copy an array into contiguous memory. Its addresses are filled in by each call."""
    target = Form.contiguous(source.shape, source.itemsize)
    return Move(placed(source), placed(target), MoveSizes(*_four(source), COPY))


def operand_move(kind: int, x: Form, problem: AttentionProblem, columns: int) -> tuple[Move, int]:
    """(move, bytes of its target): lay x, k or v, out in blocks of keys of `columns` 16-bit numbers.

    kind: of operand; see kernels/flash/gather.py.
    """
    block_bytes = WHOLE * columns * 2
    entries, head = operand_blocks(problem)
    head_bytes = head * block_bytes
    strides = problem.num_kv_heads * head_bytes, head_bytes, block_bytes // x.itemsize
    move = Move(placed(x), structs.Array(0, *strides), MoveSizes(*_four(x), kind))
    return move, entries * problem.num_kv_heads * head_bytes


def operand_blocks(problem: AttentionProblem) -> tuple[int, int]:
    """(entries of the batch, blocks of keys of a head in one entry). Each sequence begins with a block."""
    if problem.packed:
        return 1, problem.key_rows // WHOLE + problem.batch + 1
    return problem.batch, -(-problem.seqlen_k // WHOLE)


def placed(x: Form) -> structs.Array:
    """The strides of an array of the storage type, without an address."""
    return structs.Array(0, *_strides(x))


def placed_numbers(x: Form) -> Numbers:
    """The strides of an array of the accumulator type, or of lse, without an address."""
    return Numbers(0, *_strides(x))


def place(x: Array) -> structs.Array:
    """The address and strides of an array of the storage type."""
    return structs.Array(address_of(x), *_strides(x))


def place_numbers(x: Array) -> Numbers:
    """The address and strides of an array of the accumulator type, or of lse, (batch, heads, rows)."""
    return Numbers(address_of(x), *_strides(x))


def _four(x: Form) -> tuple[int, int, int, int]:
    batch, heads, rows, columns = x.shape
    return batch, heads, rows, columns


def _strides(x: Array | Form) -> tuple[int, int, int]:
    batch, head, row = x.strides[:3]
    return batch, head, row // x.itemsize


def sizes_of(problem: AttentionProblem, block_q: int, block_k: int) -> Sizes:
    heads, kv_heads = problem.num_heads, problem.num_kv_heads
    return Sizes(heads, kv_heads, heads // kv_heads, problem.head_dim, problem.head_dim_v, block_q, block_k)


# Between a call's table, which all threads read, and its counters: they share no cache line.
_GAP = ALIGNMENT - CELL_BYTES


class Counters(NamedTuple):
    """Numbers of counters that the threads of a call share; see `Work`. All are initially zero."""

    tickets: int
    finite: int = 0
    progress: int = 0

    @property
    def bytes(self) -> int:
        """Of all of them, and of the gap before them."""
        return _GAP + CELL_BYTES * sum(self)


NO_WORK = Work(*(0 for _ in Work._fields))  # of a call that is not packed yet
_THREADS, _SCRATCH, _MOVES, _TICKETS, _FINITE, _PROGRESS = map(
    Work._fields.index, ("threads", "scratch", "moves", "tickets", "finite", "progress")
)
_MOVE_CELLS = sum(map(len, (structs.Array._fields, structs.Array._fields, MoveSizes._fields)))
_TARGET = len(structs.Array._fields)


class PackedCall:
    """What calls of one kind share: the packed struct, and the sizes of the memory that each of them needs.

    call: a struct of kernels/ with a field `work`, `NO_WORK`. Addresses in it that `CallMemory` will fill in
    are 0. tasks: of `Work`. sequences: the table of sequences, which lives as long as this object.
    """

    def __init__(
        self,
        call: Any,
        sequences: NDArray[np.int64],
        counters: Counters,
        stride: int,  # bytes of scratch per thread
        *,
        tasks: int = 0,
        moves: Sequence[Move] = (),
    ) -> None:
        work = NO_WORK._replace(
            tasks=tasks,
            sequences=address_of(sequences),
            sequence_count=len(sequences),
            move_count=len(moves),
            scratch_stride=stride,
        )
        own = pack_struct(call._replace(work=work))
        self._table = own + b"".join(map(pack_struct, moves))
        self._sequences = sequences
        self._work, self._moves = cell_of(call, "work"), len(own) // CELL_BYTES
        self._tickets = len(self._table) + _GAP
        self._finite = self._tickets + CELL_BYTES * counters.tickets
        self._progress = self._finite + CELL_BYTES * counters.finite
        self._zeros = counters.bytes
        self._stride = stride

    def begin(self, threads: int) -> CallMemory:
        """The memory of one call on so many threads."""
        # In as few kinds of steps as possible: a call whose caches are cold waits 10 to 30 us for each kind.
        table = array("q", self._table)
        table.frombytes(bytes(self._zeros))
        at, work = table.buffer_info()[0], self._work
        scratch, table[work + _SCRATCH] = aligned_scratch(threads * self._stride)
        table[work + _THREADS] = threads
        table[work + _MOVES] = at + CELL_BYTES * self._moves
        table[work + _TICKETS] = tickets = at + self._tickets
        table[work + _FINITE] = at + self._finite
        table[work + _PROGRESS] = at + self._progress
        return CallMemory(table, at, tickets, threads, scratch)

    def put_move(self, memory: CallMemory, number: int, source: int, target: int) -> None:
        """Fill in the addresses of a move."""
        first = self._moves + number * _MOVE_CELLS
        memory.table[first], memory.table[first + _TARGET] = source, target


class CallMemory(NamedTuple):
    """The memory of one call. It must live until the call is over."""

    table: array[int]  # the cells of the call, to fill in; then its moves and its counters
    address: int  # of the table
    tickets: int  # address of the task counters
    threads: int
    scratch: NDArray[np.uint8]

    @property
    def refused(self) -> bool:
        """Whether a product met a number with which it cannot compute exactly: see gather.py."""
        done = (self.tickets - self.address) // CELL_BYTES + 1
        return self.table[done] >= REFUSED

    def run(self, kernel: Any, *options: int) -> None:
        """Run a kernel of the call on its threads.

        All arrays whose addresses are in the table must live until the last `run` returns.
        """
        run_kernel(kernel, self.address, self.threads, options)


def cell_of(call: Any, name: str) -> int:
    """The index of the first cell of a field of a call, a struct of structs."""
    return sum(len(part) for part in call[: call._fields.index(name)])


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


def _address_by_interface(x: NDArray[Any]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


# NumPy's documentation: a pointer to the first element is the first field after the head of every object.
# To read it there takes a fifth of the time, and five arrays are half of a short call.
_address_at, _HEAD_BYTES = ctypes.c_ssize_t.from_address, object.__basicsize__


def _address_in_object(x: NDArray[Any]) -> int:
    return _address_at(id(x) + _HEAD_BYTES).value


_probe = np.zeros(1)
address_of: Callable[[NDArray[Any]], int] = (
    _address_in_object
    if _address_in_object(_probe) == _address_by_interface(_probe)
    else _address_by_interface
)
