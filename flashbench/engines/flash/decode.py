"""Decoding in engine `flash`: which problems use it, the split of the keys into parts, and the call."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import accumulator_of, is_half
from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import switches
from flashbench.engines.flash.prepared import (
    UNLIMITED,
    Inputs,
    PreparedOutput,
    key_form,
    outputs_of,
    query_form,
    value_form,
)
from flashbench.engines.forms import Ints
from flashbench.engines.launch import (
    NO_WORK,
    CallMemory,
    Counters,
    PackedCall,
    address_of,
    cell_of,
    placed,
    placed_numbers,
    sequence_table,
    sizes_of,
    threads_for,
)
from flashbench.extras import Extras
from flashbench.kernels.call.structs import Pages, Sequence, Sizes
from flashbench.kernels.flash.decode import DecodeCall, flash_decode
from flashbench.kernels.flash.merge import Split
from flashbench.kernels.flash.scratch import DECODE, ScratchSizes, padded_lanes
from flashbench.kernels.maths.dots import QUERIES
from flashbench.kernels.products.paths import path_of
from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem

_MOST_ROWS = 64  # queries in a task, over all heads of a group: four vectors of float32 on AVX-512
_BLOCK_K = 64
_LEAST_KEYS = 256  # keys per part, at least: the cost to begin and merge a part is then small
_PARTS = 32  # parts of a call, if it has enough keys: many cores stay busy to the end


class DecodePlan(NamedTuple):
    """Sizes of a call. They depend on the problem only, so threads do not change the bits of the result."""

    chunk: int  # queries per head in one task
    rows: int  # queries in one task: chunk * heads of a group
    part_keys: int
    block_k: int
    tasks: int


def decodes(problem: AttentionProblem, settings: Settings) -> bool:
    """Whether to use the decoding kernel: for few queries, where the time is that of reading k and v.

    Problems with keys in pages always use it. Problems with dropout or a block mask never do, nor calls that
    set block_q.
    """
    if problem.page_size is not None:
        return True
    few = problem.seqlen_q <= MOST_DECODING_QUERIES and problem.mask != "block" and problem.dropout == 0
    return few and settings.use_simd and settings.block_q is None


def decode_plan(problem: AttentionProblem, settings: Settings) -> DecodePlan:
    """The sizes of a call. Only for problems for which `decodes` is true."""
    return _plan(problem, settings.block_k)


@functools.lru_cache(maxsize=1024)  # used by every call
def _plan(problem: AttentionProblem, block_k: int | None) -> DecodePlan:
    group = problem.num_heads // problem.num_kv_heads
    chunk = min(MOST_DECODING_QUERIES, problem.seqlen_q, max(1, _MOST_ROWS // group))
    lengths = problem.length_counts.items()
    heads = problem.num_kv_heads * sum(count * -(-seqlen_q // chunk) for (seqlen_q, _), count in lengths)
    part_keys = max(_LEAST_KEYS, -(-problem.seqlen_k * heads // _PARTS))
    part_keys = -(-part_keys // _BLOCK_K) * _BLOCK_K
    tasks = problem.num_kv_heads * sum(count * _tasks(sizes, chunk, part_keys) for sizes, count in lengths)
    block_k = min(block_k or _BLOCK_K, problem.seqlen_k)
    return DecodePlan(chunk, group * chunk, part_keys, block_k, tasks)


def _tasks(lengths: tuple[Any, Any], chunk: int, part_keys: int) -> Any:
    """Tasks per key/value head of a sequence. lengths: (seqlen_q, seqlen_k), integers or arrays of them."""
    seqlen_q, seqlen_k = lengths
    return -(-seqlen_q // chunk) * (-(-seqlen_k // part_keys) + (seqlen_k == 0))


def _threads(problem: AttentionProblem, settings: Settings, plan: DecodePlan) -> int:
    return min(threads_for(problem, "fwd", settings), max(1, plan.tasks))


class _Tiling(NamedTuple):
    """The parts of a call's struct that depend on the problem and plan only."""

    sizes: Sizes
    split: Split
    scratch: Any  # offsets of the layout's parts
    stride: int  # bytes from one thread's scratch to the next
    counters: Counters
    part_bytes: int  # bytes of o, row_max and row_sum of all parts


def _tiling(problem: AttentionProblem, plan: DecodePlan) -> _Tiling:
    number_bytes = accumulator_of(problem.dtype).itemsize
    lanes = padded_lanes(-(-plan.rows // QUERIES) * QUERIES, number_bytes)
    part_numbers = plan.rows * (problem.head_dim_v + 2)
    half = is_half(problem.dtype)
    scratch, stride = DECODE.place(
        ScratchSizes(
            lanes,
            plan.chunk,
            plan.block_k,
            problem.head_dim,
            problem.head_dim_v,
            problem.itemsize,
            number_bytes,
            copies=int(half),
            alibi=problem.alibi,
        )
    )
    return _Tiling(
        sizes_of(problem, plan.chunk, plan.block_k),
        Split(plan.chunk, plan.rows, lanes, plan.part_keys, 0, part_numbers, problem.itemsize, int(half)),
        scratch,
        stride,
        Counters(tickets=2 * plan.tasks),  # there are no more threads than tasks
        plan.tasks * part_numbers * number_bytes,
    )


def decode_bytes(problem: AttentionProblem, settings: Settings) -> int:
    """Workspace of a call in bytes; exact if `readable` copies no array."""
    plan = decode_plan(problem, settings)
    tiling = _tiling(problem, plan)
    scratch = _threads(problem, settings, plan) * tiling.stride + ALIGNMENT
    shared = struct_bytes(DecodeCall) + problem.batch * struct_bytes(Sequence) + tiling.counters.bytes
    return scratch + shared + tiling.part_bytes


class PreparedDecode(PreparedOutput):
    """Runs with arrays of the problem's shapes and these strides. Only where `decodes` is true."""

    def __init__(self, problem: AttentionProblem, settings: Settings, q: Ints, k: Ints, v: Ints) -> None:
        given_q = query_form(problem, q)
        self._inputs = Inputs(given_q, key_form(problem, k), value_form(problem, v))
        self._o, self._lse = outputs_of(problem, given_q)
        plan = decode_plan(problem, settings)
        tiling = _tiling(problem, plan)
        q_form, k_form, v_form = self._inputs.forms
        call = DecodeCall(
            placed(q_form),
            placed(k_form),
            placed(v_form),
            placed(self._o.form),
            placed_numbers(self._lse.form),
            tiling.scratch,
            tiling.split,
            _NO_PAGES if problem.page_size is None else _NO_PAGES._replace(size=problem.page_size),
            tiling.sizes,
            NO_WORK,
            switches(problem),
        )
        sequences = sequence_table(problem, lambda *lengths: _tasks(lengths, plan.chunk, plan.part_keys))
        packed = PackedCall(call, sequences, tiling.counters, tiling.stride, tasks=plan.tasks)
        kernel = flash_decode(path_of(problem.dtype, settings.path).decode, problem.dtype)
        threads = _threads(problem, settings._replace(num_threads=UNLIMITED), plan)
        names = "q", "k", "v", "o", "lse"
        copies = self._inputs.copied or problem.page_size is not None
        super().__init__(problem, settings, call, packed, kernel, threads, names, copies=copies)
        self._part_bytes = tiling.part_bytes
        self._parts = cell_of(call, "split") + Split._fields.index("parts")
        self._pages = cell_of(call, "pages")

    def run(self, q: Array, k: Array, v: Array, extras: Extras) -> Forward:
        """Compute o and lse."""
        q, k, v = self._inputs.readable(q, k, v)
        o, lse = self._o.make(), self._lse.make()
        memory, owners = self.begin(extras, *map(address_of, (q, k, v, o, lse)))
        table = memory.table
        pages = None
        if self.problem.page_size is not None:
            assert extras.block_table is not None
            pages = np.ascontiguousarray(extras.block_table, np.int64)
            table[self._pages + _TABLE], table[self._pages + _BATCH] = address_of(pages), pages.strides[0]
        memory.run(self.kernel)
        del owners, pages  # alive until here: the kernel has only their addresses
        return Forward(o, lse)

    def begin(
        self, extras: Extras, *addresses: int, num_threads: int | None = None
    ) -> tuple[CallMemory, Any]:
        """The same with memory for the results of all parts, which is one of the owners."""
        memory, owners = super().begin(extras, *addresses, num_threads=num_threads)
        parts = np.empty(self._part_bytes, np.uint8)
        memory.table[self._parts] = address_of(parts)
        return memory, (owners, parts)


_NO_PAGES = Pages(0, 0, 0)
_TABLE, _BATCH = Pages._fields.index("table"), Pages._fields.index("batch")
