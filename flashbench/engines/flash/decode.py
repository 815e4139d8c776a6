"""How engine `flash` decodes: which problems go that way, in how many parts, and the call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flashbench.codegen.scratch import ALIGNMENT, aligned
from flashbench.engines import Array, Forward, Settings
from flashbench.engines.features import FEATURE_BYTES, kernel_features, number_bytes
from flashbench.engines.launch import (
    BYTE,
    address_of,
    aligned_scratch,
    array_table,
    readable,
    result_like,
    sequence_table,
    threads_for,
)
from flashbench.extras import Extras
from flashbench.kernels.call.features import SEQUENCE_COLUMNS
from flashbench.kernels.flash.decode import flash_decode
from flashbench.kernels.flash.scratch import decode_elements
from flashbench.problem import MOST_DECODING_QUERIES, AttentionProblem
from flashbench.threads.pool import run_on_threads

_MOST_ROWS = 64  # queries of a chunk, over the heads that share keys: four vectors of float32 on AVX-512
_BLOCK_K = 64
_LEAST_KEYS = 256  # of a part: what it costs to begin and to merge one is then little
_PARTS = 32  # of a whole call, if it has as many keys: enough to keep many cores busy to the end
_ARRAYS = 5


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


def _stride(problem: AttentionProblem, plan: DecodePlan) -> int:
    """Bytes from one thread's scratch to the next."""
    elements = decode_elements(plan.rows, plan.block_k, problem.head_dim, problem.itemsize)
    return aligned(elements * problem.itemsize)


def _parts_bytes(problem: AttentionProblem, plan: DecodePlan) -> int:
    """o, row_max and row_sum of every part."""
    return plan.tasks * plan.rows * (problem.head_dim_v + 2) * problem.itemsize


def decode_bytes(problem: AttentionProblem, settings: Settings) -> int:
    """Workspace of a call, exact for arrays that `readable` need not copy."""
    plan = decode_plan(problem, settings)
    scratch = _threads(problem, settings, plan) * _stride(problem, plan) + ALIGNMENT
    told = _ARRAYS * 32 + problem.batch * SEQUENCE_COLUMNS * 8 + FEATURE_BYTES + number_bytes(problem)
    return scratch + told + 8 * (plan.tasks + 1) + _parts_bytes(problem, plan)


def decode(
    problem: AttentionProblem, settings: Settings, q: Array, k: Array, v: Array, extras: Extras
) -> Forward:
    """o and lse of a problem that `decodes`."""
    o = result_like(q, problem.head_dim_v)
    lse = np.empty(problem.q_shape[:3], dtype=q.dtype)
    plan = decode_plan(problem, settings)
    stride = _stride(problem, plan)
    q, k, v = readable(q), readable(k), readable(v)
    table = array_table(q, k, v, o, lse[..., np.newaxis])
    sequences = sequence_table(problem, lambda *lengths: _tasks(lengths, plan.chunk, plan.part_keys))
    features = kernel_features(problem, extras)
    counters = np.zeros(1 + plan.tasks, dtype=np.int64)
    counters_address = address_of(counters)
    parts = np.empty(_parts_bytes(problem, plan), dtype=np.uint8)
    threads = _threads(problem, settings, plan)
    scratch, scratch_address = aligned_scratch(threads * stride)
    number = q.dtype.type

    def work(slot: int) -> None:
        flash_decode(
            number(0),
            BYTE,
            q.itemsize,
            table,
            sequences,
            features.whole,
            features.numbers,
            counters_address,
            counters_address + 8,
            address_of(parts),
            scratch_address,
            stride,
            slot,
            plan.tasks,
            problem.num_kv_heads,
            problem.num_heads // problem.num_kv_heads,
            problem.head_dim,
            problem.head_dim_v,
            plan.chunk,
            plan.part_keys,
            plan.block_k,
        )

    run_on_threads(work, threads, counters_address)
    del scratch  # it had to live until here: the kernels know only its address
    return Forward(o, lse)
