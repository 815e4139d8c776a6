"""Decoding in engine `flash`: which problems use it, the split of the keys into parts, and the call."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import accumulator_of, is_half
from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import call_features
from flashbench.engines.launch import (
    CallMemory,
    Counters,
    Launch,
    Rows,
    address_of,
    kept_for_small_batches,
    place,
    place_numbers,
    readable,
    result_like,
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
    return min(threads_for(problem, "fwd", settings, reading=True), max(1, plan.tasks))


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
        Counters(tickets=1 + plan.tasks),
        plan.tasks * part_numbers * number_bytes,
    )


@kept_for_small_batches
def _tables(problem: AttentionProblem, plan: DecodePlan) -> tuple[_Tiling, Rows]:
    """The tiling, and the table of sequences."""
    table = sequence_table(problem, lambda *lengths: _tasks(lengths, plan.chunk, plan.part_keys))
    return _tiling(problem, plan), Rows.of(table)


def decode_bytes(problem: AttentionProblem, settings: Settings) -> int:
    """Workspace of a call in bytes; exact if `readable` copies no array."""
    plan = decode_plan(problem, settings)
    tiling = _tiling(problem, plan)
    scratch = _threads(problem, settings, plan) * tiling.stride + ALIGNMENT
    shared = struct_bytes(DecodeCall) + problem.batch * struct_bytes(Sequence) + tiling.counters.bytes
    return scratch + shared + tiling.part_bytes


def decode(
    problem: AttentionProblem, settings: Settings, q: Array, k: Array, v: Array, extras: Extras
) -> Forward:
    """o (batch, num_heads, seqlen_q, head_dim_v) and lse (batch, num_heads, seqlen_q).

    Only for problems for which `decodes` is true.
    """
    o = result_like(q, problem.head_dim_v)
    lse = np.empty(problem.q_shape[:3], accumulator_of(problem.dtype).storage)
    plan = decode_plan(problem, settings)
    tiling, sequences = _tables(problem, plan)
    threads = _threads(problem, settings, plan)
    q, k, v = readable(q), readable(k), readable(v)
    features, arrays = call_features(problem, extras)
    pages, block_table = _pages(problem, extras)
    parts = np.empty(tiling.part_bytes, np.uint8)
    memory = CallMemory(threads, tiling.stride, tiling.counters, sequences)
    call = DecodeCall(
        place(q),
        place(k),
        place(v),
        place(o),
        place_numbers(lse),
        tiling.scratch,
        tiling.split._replace(parts=address_of(parts)),
        pages,
        tiling.sizes,
        memory.work(plan.tasks),
        features,
    )
    kernel = flash_decode(path_of(problem.dtype, settings.path).decode, problem.dtype)
    Launch(call, threads).run(kernel)
    del memory, arrays, parts, block_table  # keep them alive until here: the kernel has only their addresses
    return Forward(o, lse)


_NO_PAGES = Pages(0, 0, 0)


def _pages(problem: AttentionProblem, extras: Extras) -> tuple[Pages, NDArray[np.int64] | None]:
    """(the `Pages` struct, the block table, which must live until the call ends)."""
    if problem.page_size is None:
        return _NO_PAGES, None
    assert extras.block_table is not None
    table = np.ascontiguousarray(extras.block_table, np.int64)
    return Pages(problem.page_size, address_of(table), table.strides[0]), table
