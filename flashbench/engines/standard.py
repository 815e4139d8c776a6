"""Engine `standard`: scores materialised, softmax in place, P kept for its backward."""

from __future__ import annotations

import math

import numpy as np

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.launch import address_of, aligned_scratch, array_table, readable, threads_for
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.blocks import ALIGNMENT, aligned
from flashbench.kernels.standard import (
    KEY_GRADIENTS,
    KEY_TILE,
    OUTPUT,
    P_GRADIENT,
    QUERY_GRADIENT,
    SCORE_GRADIENT,
    SCORES,
    SOFTMAX,
    standard_backward,
    standard_forward,
)
from flashbench.kernels.threads import run_on_threads
from flashbench.problem import AttentionProblem, Direction, Feature

LOG2E = math.log2(math.e)


class StandardEngine:
    """The strongest fair baseline: the same micro-kernel and exponential, scores in memory."""

    name = "standard"
    summary = "scores materialised, softmax in place (Numba, the same SIMD products as flash)"
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
        p = np.empty((*shape, problem.seqlen_k), dtype=q.dtype)
        threads = threads_for(problem, "fwd", settings)
        stride = _scratch_stride(problem)
        q, k, v = readable(q), readable(k), readable(v)
        table = array_table(q, k, v, o, lse[..., np.newaxis], p)
        tickets = np.zeros(3, dtype=np.int64)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type
        for stage in (SCORES, SOFTMAX, OUTPUT):

            def work(slot: int, stage: int = stage) -> None:
                standard_forward(
                    number(0),
                    stage,
                    table,
                    address_of(tickets) + 8 * stage,
                    scratch_address if stride else 0,
                    stride,
                    slot,
                    problem.batch,
                    problem.num_heads,
                    problem.num_heads // problem.num_kv_heads,
                    problem.seqlen_q,
                    problem.seqlen_k,
                    problem.head_dim,
                    problem.head_dim_v,
                    number(problem.scale * LOG2E),
                    problem.causal,
                    problem.diagonal_offset,
                )

            run_on_threads(work, threads)
        del scratch  # it had to live until here: the kernels know only its address
        return Forward(o, lse, p if keep else None)

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
        p = forward.saved
        if p is None:
            p = self.forward(problem, settings, q, k, v, keep=True).saved
        dq, dk, dv = (np.empty(x.shape, dtype=q.dtype) for x in (q, k, v))
        dp = np.empty_like(p)
        threads = threads_for(problem, "fwd", settings)
        do, q, k, v = readable(do), readable(q), readable(k), readable(v)
        o, lse = forward.o, forward.lse  # in the table for its order only: P says it all
        assert lse is not None  # ours gives it, and callers who bring their own must bring it
        table = array_table(q, k, v, o, lse[..., np.newaxis], p, dp, do, dq, dk, dv)
        tickets = np.zeros(4, dtype=np.int64)
        number = q.dtype.type
        for stage in (P_GRADIENT, SCORE_GRADIENT, KEY_GRADIENTS, QUERY_GRADIENT):

            def work(slot: int, stage: int = stage) -> None:
                standard_backward(
                    number(0),
                    stage,
                    table,
                    address_of(tickets) + 8 * stage,
                    slot,
                    problem.batch,
                    problem.num_heads,
                    problem.num_kv_heads,
                    problem.seqlen_q,
                    problem.seqlen_k,
                    problem.head_dim,
                    problem.head_dim_v,
                    number(problem.scale),
                    problem.causal,
                    problem.diagonal_offset,
                )

            run_on_threads(work, threads)
        return AttentionGradients(dq, dk, dv)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """The scores; the backward's own are dp beside the P that its forward kept."""
        scores = problem.batch * problem.num_heads * problem.seqlen_q * problem.seqlen_k * problem.itemsize
        packed = threads_for(problem, "fwd", settings) * _scratch_stride(problem) + ALIGNMENT
        return {"fwd": scores + packed, "bwd": scores, "fwd_bwd": 2 * scores}[direction]

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None: there is one."""
        return None


def _scratch_stride(problem: AttentionProblem) -> int:
    """Bytes a thread needs for packed keys; none where a head of o can hold them."""
    if problem.seqlen_k * problem.head_dim <= problem.seqlen_q * problem.head_dim_v:
        return 0
    return aligned(min(KEY_TILE, problem.seqlen_k) * problem.head_dim * problem.itemsize)
