"""Engine `flash`: tiled attention with an online softmax, backward by recomputation."""

from __future__ import annotations

import math

import numpy as np

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.launch import address_of, aligned_scratch, array_table, readable, threads_for
from flashbench.engines.tuned import Pass, tuned_blocks
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.blocks import (
    ALIGNMENT,
    Blocks,
    aligned,
    backward_blocks,
    backward_elements,
    forward_blocks,
    forward_elements,
)
from flashbench.kernels.flash_backward import flash_backward
from flashbench.kernels.flash_forward import flash_forward
from flashbench.kernels.scalar import scalar_backward, scalar_forward
from flashbench.kernels.threads import run_on_threads
from flashbench.problem import AttentionProblem, Direction, Feature

LOG2E = math.log2(math.e)
_FORWARD_ARRAYS = 5
_BACKWARD_ARRAYS = 9
_TABLE_ROW_BYTES = 32


class FlashEngine:
    """Numba kernels whose workspace does not grow with seqlen squared."""

    name = "flash"
    summary = "tiled, online softmax, backward by recomputation (Numba, SIMD)"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset()

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        shape = (problem.batch, problem.num_heads, problem.seqlen_q)
        o, lse = np.empty((*shape, problem.head_dim_v), dtype=q.dtype), np.empty(shape, dtype=q.dtype)
        if not settings.use_simd:
            scalar_forward(q, k, v, o, lse, problem.scale, problem.causal, problem.diagonal_offset)
            return Forward(o, lse)
        threads, blocks = _forward_plan(problem, settings)
        itemsize = q.itemsize
        stride = _forward_stride(problem, blocks)
        q, k, v = readable(q), readable(k), readable(v)
        table = array_table(q, k, v, o, lse[..., np.newaxis])
        tickets = np.zeros(1, dtype=np.int64)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type
        tasks = problem.batch * problem.num_heads * -(-problem.seqlen_q // blocks.block_q)

        def work(slot: int) -> None:
            flash_forward(
                number(0),
                itemsize,
                table,
                address_of(tickets),
                scratch_address,
                stride,
                slot,
                tasks,
                problem.num_heads,
                problem.num_heads // problem.num_kv_heads,
                problem.seqlen_q,
                problem.seqlen_k,
                problem.head_dim,
                problem.head_dim_v,
                number(problem.scale * LOG2E),
                problem.causal,
                problem.diagonal_offset,
                blocks.block_q,
                blocks.block_k,
            )

        run_on_threads(work, threads)
        del scratch  # it had to live until here: the kernels know only its address
        return Forward(o, lse)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        dq, dk, dv = (np.empty(x.shape, dtype=q.dtype) for x in (q, k, v))
        o, lse = forward.o, forward.lse
        assert lse is not None  # ours gives it, and callers who bring their own must bring it
        if not settings.use_simd:
            scalar_backward(
                do, q, k, v, o, lse, dq, dk, dv, problem.scale, problem.causal, problem.diagonal_offset
            )
            return AttentionGradients(dq, dk, dv)
        threads, blocks = _backward_plan(problem, settings)
        itemsize = q.itemsize
        stride = _backward_stride(problem, blocks)
        do, q, k, v, o = readable(do), readable(q), readable(k), readable(v), readable(o)
        lse = readable(lse[..., np.newaxis])  # a copy, too, has to live as long as its address is used
        table = array_table(q, k, v, o, lse, do, dq, dk, dv)
        tickets = np.zeros(_chains(problem) + 1, dtype=np.int64)
        progress = np.zeros(_backward_tasks(problem, blocks), dtype=np.int64)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type

        def work(slot: int) -> None:
            flash_backward(
                number(0),
                itemsize,
                table,
                address_of(tickets),
                address_of(progress),
                scratch_address,
                stride,
                slot,
                problem.batch,
                problem.num_heads,
                problem.num_kv_heads,
                problem.seqlen_q,
                problem.seqlen_k,
                problem.head_dim,
                problem.head_dim_v,
                number(problem.scale * LOG2E),
                number(problem.scale),
                problem.causal,
                problem.diagonal_offset,
                blocks.block_q,
                blocks.block_k,
            )

        run_on_threads(work, threads)
        del scratch
        return AttentionGradients(dq, dk, dv)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """The forward pass's blocks where both directions run, as theirs may differ."""
        if not settings.use_simd:
            return None
        plan = _backward_plan if direction == "bwd" else _forward_plan
        blocks = plan(problem, settings)[1]
        return blocks.block_q, blocks.block_k

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Exact for arrays that `readable` need not copy."""
        if not settings.use_simd:
            return 0
        needs = []
        if direction != "bwd":
            threads, blocks = _forward_plan(problem, settings)
            scratch = threads * _forward_stride(problem, blocks) + ALIGNMENT
            needs.append(scratch + _FORWARD_ARRAYS * _TABLE_ROW_BYTES + 8)
        if direction != "fwd":
            threads, blocks = _backward_plan(problem, settings)
            scratch = threads * _backward_stride(problem, blocks) + ALIGNMENT
            shared = _BACKWARD_ARRAYS * _TABLE_ROW_BYTES
            shared += 8 * (1 + _chains(problem) + _backward_tasks(problem, blocks))
            needs.append(scratch + shared)
        return max(needs)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None: there is one."""
        return None


def built_in_blocks(problem: AttentionProblem, direction: Pass) -> Blocks:
    """What `flash` chooses by rule, where no table says better."""
    if direction == "fwd":
        return forward_blocks(
            problem.seqlen_q, problem.seqlen_k, problem.head_dim, problem.itemsize, problem.flops("fwd")
        )
    return backward_blocks(problem.seqlen_q, problem.seqlen_k, problem.head_dim, problem.itemsize)


def _forward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "fwd", settings)
    blocks = _chosen(problem, "fwd", settings)
    tiles = problem.batch * problem.num_heads * -(-problem.seqlen_q // blocks.block_q)
    return min(threads, tiles), blocks


def _backward_plan(problem: AttentionProblem, settings: Settings) -> tuple[int, Blocks]:
    threads = threads_for(problem, "bwd", settings)
    blocks = _chosen(problem, "bwd", settings)
    return min(threads, _backward_tasks(problem, blocks)), blocks


def _chosen(problem: AttentionProblem, direction: Pass, settings: Settings) -> Blocks:
    """The caller's block sizes where given, else the tuned pair, else the rule's; never longer than the
    sequence. A caller who gives one size gets the rule's other: the tuned one goes with its own partner.
    """
    auto = None
    if settings.block_q is None and settings.block_k is None:
        auto = tuned_blocks(problem, direction)
    auto = auto or built_in_blocks(problem, direction)
    return Blocks(
        min(settings.block_q or auto.block_q, problem.seqlen_q),
        min(settings.block_k or auto.block_k, problem.seqlen_k),
    )


def _forward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    """Bytes from one thread's scratch to the next."""
    elements = forward_elements(blocks.block_q, blocks.block_k, problem.head_dim, problem.itemsize)
    return aligned(elements * problem.itemsize)


def _backward_stride(problem: AttentionProblem, blocks: Blocks) -> int:
    elements = backward_elements(
        blocks.block_q, blocks.block_k, problem.head_dim, problem.head_dim_v, problem.itemsize
    )
    return aligned(elements * problem.itemsize)


def _backward_tasks(problem: AttentionProblem, blocks: Blocks) -> int:
    return problem.batch * problem.num_heads * -(-problem.seqlen_q // blocks.block_q)


def _chains(problem: AttentionProblem) -> int:
    """Key/value heads: what the backward pass's tasks are chained by."""
    return problem.batch * problem.num_kv_heads
