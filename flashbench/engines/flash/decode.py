"""How engine `flash` decodes: which problems go that way, in how many parts, and the call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import accumulator_of
from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import call_features
from flashbench.engines.launch import (
    CallMemory,
    Counters,
    Launch,
    address_of,
    place,
    place_numbers,
    readable,
    result_like,
    sequence_table,
    sizes_of,
    threads_for,
)
from flashbench.extras import Extras
from flashbench.kernels.call.structs import Pages, Sequence
from flashbench.kernels.flash.decode import DecodeCall, flash_decode
from flashbench.kernels.flash.merge import Split
from flashbench.kernels.flash.scratch import DECODE, ScratchSizes, padded_lanes
from flashbench.kernels.maths.dots import QUERIES
from flashbench.kernels.products.paths import path_of
from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem

_NO_PAGES = np.zeros((0, 0), np.int64)
_MOST_ROWS = 64  # queries of a chunk, over the heads that share keys: four vectors of float32 on AVX-512
_BLOCK_K = 64
_LEAST_KEYS = 256  # of a part: what it costs to begin and to merge one is then little
_PARTS = 32  # of a whole call, if it has as many keys: enough to keep many cores busy to the end


class DecodePlan(NamedTuple):
    """Sizes of a call, from the problem alone, so that the bits of the result do not depend on threads."""

    chunk: int  # queries at once, of each head of a group
    rows: int  # chunk times the heads of a group
    part_keys: int
    block_k: int
    tasks: int


def decodes(problem: AttentionProblem, settings: Settings) -> bool:
    """Whether the problem is one of decoding: few queries, whose time is that of reading k and v.

    Keys in pages always are. Dropout and block masks are not, nor whoever chooses tiles of queries.
    """
    if problem.page_size is not None:
        return True
    few = problem.seqlen_q <= MOST_DECODING_QUERIES and problem.mask != "block" and problem.dropout == 0
    return few and settings.use_simd and settings.block_q is None


def decode_plan(problem: AttentionProblem, settings: Settings) -> DecodePlan:
    """The sizes for a problem that `decodes`."""
    group = problem.num_heads // problem.num_kv_heads
    chunk = min(MOST_DECODING_QUERIES, problem.seqlen_q, max(1, _MOST_ROWS // group))
    lengths = problem.length_counts.items()
    heads = problem.num_kv_heads * sum(count * -(-seqlen_q // chunk) for (seqlen_q, _), count in lengths)
    part_keys = max(_LEAST_KEYS, -(-problem.seqlen_k * heads // _PARTS))
    part_keys = -(-part_keys // _BLOCK_K) * _BLOCK_K
    tasks = problem.num_kv_heads * sum(count * _tasks(sizes, chunk, part_keys) for sizes, count in lengths)
    block_k = min(settings.block_k or _BLOCK_K, problem.seqlen_k)
    return DecodePlan(chunk, group * chunk, part_keys, block_k, tasks)


def _tasks(lengths: tuple[Any, Any], chunk: int, part_keys: int) -> Any:
    """Tasks of one key/value head of a sequence, by its numbers of queries and keys, or by arrays of them."""
    seqlen_q, seqlen_k = lengths
    return -(-seqlen_q // chunk) * (-(-seqlen_k // part_keys) + (seqlen_k == 0))


def _threads(problem: AttentionProblem, settings: Settings, plan: DecodePlan) -> int:
    return min(threads_for(problem, "fwd", settings, reading=True), max(1, plan.tasks))


def _scratch(problem: AttentionProblem, plan: DecodePlan) -> tuple[Any, int]:
    """(the scratch's cells, bytes from one thread's to the next)."""
    sizes = ScratchSizes(
        _lanes(problem, plan),
        plan.chunk,
        plan.block_k,
        problem.head_dim,
        problem.head_dim_v,
        problem.itemsize,
        accumulator_of(problem.dtype).itemsize,
        limited=True,  # a part has limits of its own, and a chunk of queries too
        alibi=problem.alibi,
    )
    return DECODE.place(sizes)


def _lanes(problem: AttentionProblem, plan: DecodePlan) -> int:
    return padded_lanes(-(-plan.rows // QUERIES) * QUERIES, accumulator_of(problem.dtype).itemsize)


def _part_numbers(problem: AttentionProblem, plan: DecodePlan) -> int:
    """o, row_max and row_sum of a part."""
    return plan.rows * (problem.head_dim_v + 2)


def _counters(plan: DecodePlan) -> Counters:
    return Counters(tickets=1 + plan.tasks)


def decode_bytes(problem: AttentionProblem, settings: Settings) -> int:
    """Workspace of a call, exact for arrays that `readable` need not copy."""
    plan = decode_plan(problem, settings)
    _, stride = _scratch(problem, plan)
    scratch = _threads(problem, settings, plan) * stride + ALIGNMENT
    shared = struct_bytes(DecodeCall) + problem.batch * struct_bytes(Sequence) + _counters(plan).bytes
    return (
        scratch + shared + plan.tasks * _part_numbers(problem, plan) * accumulator_of(problem.dtype).itemsize
    )


def decode(
    problem: AttentionProblem, settings: Settings, q: Array, k: Array, v: Array, extras: Extras
) -> Forward:
    """o and lse of a problem that `decodes`."""
    o = result_like(q, problem.head_dim_v)
    number = accumulator_of(problem.dtype)
    lse = np.empty(problem.q_shape[:3], number.storage)
    plan = decode_plan(problem, settings)
    threads = _threads(problem, settings, plan)
    q, k, v = readable(q), readable(k), readable(v)
    sequences = sequence_table(problem, lambda *lengths: _tasks(lengths, plan.chunk, plan.part_keys))
    features, arrays = call_features(problem, extras)
    block_table = _block_table(problem, extras)
    pages = Pages(problem.page_size or 0, address_of(block_table), block_table.strides[0])
    numbers = _part_numbers(problem, plan)
    parts = np.empty(plan.tasks * numbers, number.storage)
    scratch, stride = _scratch(problem, plan)
    memory = CallMemory(threads, stride, _counters(plan), sequences)
    lanes = _lanes(problem, plan)
    call = DecodeCall(
        place(q),
        place(k),
        place(v),
        place(o),
        place_numbers(lse[..., np.newaxis]),
        scratch,
        Split(plan.chunk, plan.rows, lanes, plan.part_keys, address_of(parts), numbers, problem.itemsize),
        pages,
        sizes_of(problem, plan.chunk, plan.block_k),
        memory.work(plan.tasks),
        features,
    )
    Launch(call, problem, threads).run(flash_decode(path_of(problem.dtype).product))
    del memory, arrays, parts, block_table  # they had to live until here: the kernel knows only addresses
    return Forward(o, lse)


def _block_table(problem: AttentionProblem, extras: Extras) -> NDArray[np.int64]:
    if problem.page_size is None:
        return _NO_PAGES
    assert extras.block_table is not None
    return np.ascontiguousarray(extras.block_table, np.int64)
