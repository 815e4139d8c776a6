"""Engine `standard`: scores materialised, softmax in place, P kept for its backward."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT, aligned
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.features import FEATURE_BYTES, kernel_features
from flashbench.engines.launch import (
    address_of,
    aligned_scratch,
    array_table,
    broadcast_gradient,
    no_tasks,
    readable,
    result_like,
    sequence_table,
    threads_for,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.features import SEQLEN_K, SEQLEN_Q
from flashbench.kernels.standard.rows import COLUMNS, SLAB
from flashbench.kernels.standard.stages import (
    KEY_GRADIENTS,
    KEY_TILE,
    OUTPUT,
    P_GRADIENT,
    QUERY_GRADIENT,
    ROW_TILE,
    SCORE_GRADIENT,
    SCORES,
    SOFTMAX,
    standard_backward,
    standard_forward,
    standard_mask_gradient,
)
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.threads.pool import run_on_threads

LOG2E = math.log2(math.e)
_TICKETS = 5  # a counter for each stage, and one for dmask


class Kept(NamedTuple):
    """What the backward reads: P, and what features make of scores and of P, each as long as all slabs."""

    p: Array
    tanh: Array | None = None  # with softcap
    dropped: Array | None = None  # with dropout: what o was made of


class StandardEngine(EngineBase):
    """The strongest fair baseline: the same micro-kernel and exponential, scores in memory."""

    name = "standard"
    summary = "scores materialised, softmax in place (Numba, the same SIMD products as flash)"
    features: frozenset[Feature] = frozenset(
        {"window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout"}
    )

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
        shape = problem.q_shape[:3]
        o, lse = result_like(q, problem.head_dim_v), np.empty(shape, dtype=q.dtype)
        plan, sequences = _plan(problem), _sequences(problem)
        scores, longest, hides = plan[:3]
        stride = plan.stride if o.flags.c_contiguous else plan.packed
        p, tanh, dropped = kept = Kept(
            np.empty(scores, q.dtype),
            np.empty(scores, q.dtype) if keep and problem.softcap is not None else None,
            np.empty(scores, q.dtype) if keep and problem.dropout else None,
        )
        threads = threads_for(problem, "fwd", settings)
        q, k, v = readable(q), readable(k), readable(v)
        features = kernel_features(problem, extras)
        table = array_table(
            q,
            k,
            v,
            o,
            lse[..., np.newaxis],
            _flat(p),
            _flat(p if tanh is None else tanh),
            _flat(p if dropped is None else dropped),
        )
        # All these have to live as long as the kernels run, which know addresses only.
        features_at, numbers_at = address_of(features.whole), address_of(features.numbers)
        tickets = np.zeros(_TICKETS, dtype=np.int64)
        finite = np.zeros(problem.batch * problem.num_kv_heads, dtype=np.int64)
        tickets_at, finite_at = address_of(tickets), address_of(finite)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type
        natural = bool(problem.softcap or problem.alibi or problem.sinks or problem.mask == "float")
        factor = problem.scale / (problem.softcap or 1.0) * (1.0 if natural else LOG2E)
        for stage in (SCORES, SOFTMAX, OUTPUT):

            def work(slot: int, stage: int = stage) -> None:
                standard_forward(
                    number(0),
                    stage,
                    table,
                    sequences,
                    features_at,
                    numbers_at,
                    hides,
                    finite_at,
                    tickets_at + 8 * stage,
                    scratch_address if stride else 0,
                    stride,
                    slot,
                    longest,
                    problem.num_heads,
                    problem.num_heads // problem.num_kv_heads,
                    problem.head_dim,
                    problem.head_dim_v,
                    number(factor),
                    number(problem.softcap or 0),
                    natural,
                )

            run_on_threads(work, threads, tickets_at + 8 * stage)
        del scratch
        return Forward(o, lse, kept if keep else None)

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
        if forward.saved is None:
            forward = self.forward(problem, settings, q, k, v, extras=extras, keep=True)
        p, tanh, dropped = forward.saved
        dq, dk, dv = (result_like(x, x.shape[3]) for x in (q, k, v))
        # The kernels first pack v where dv will be, a head's rows without gaps.
        room = dv if dv.flags.c_contiguous else np.empty(dv.shape, dv.dtype)
        dp = np.empty_like(p)
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = np.zeros(problem.mask_shape, dtype=q.dtype)
        sequences, (_, longest, hides) = _sequences(problem), _plan(problem)[:3]
        threads = threads_for(problem, "fwd", settings)
        do, q, k, v = readable(do), readable(q), readable(k), readable(v)
        o, lse = forward.o, forward.lse
        assert lse is not None  # ours gives it, and callers who bring their own must bring it
        table = array_table(
            q,
            k,
            v,
            o,  # for its place in the table: P says it all
            lse[..., np.newaxis],
            _flat(p),
            _flat(p if tanh is None else tanh),
            _flat(p if dropped is None else dropped),
            _flat(dp),
            do,
            dq,
            dk,
            room,
            *(() if dmask is None else (broadcast_gradient(dmask, dmask.shape),)),
        )
        features = kernel_features(problem, extras)
        # All these have to live as long as the kernels run, which know addresses only.
        features_at, numbers_at = address_of(features.whole), address_of(features.numbers)
        tickets = np.zeros(_TICKETS, dtype=np.int64)
        finite = np.zeros(problem.batch * (2 * problem.num_heads + problem.num_kv_heads), dtype=np.int64)
        tickets_at, finite_at = address_of(tickets), address_of(finite)
        shares = np.zeros((len(sequences), problem.num_heads, -(-longest // ROW_TILE)))
        number = q.dtype.type
        scale, softcap = number(problem.scale), number(problem.softcap or 0)
        mask_step = -1 if dmask is None else int(dmask.shape[3] > 1)

        def run(stage: int) -> None:
            def work(slot: int) -> None:
                standard_backward(
                    number(0),
                    stage,
                    table,
                    sequences,
                    features_at,
                    numbers_at,
                    hides,
                    finite_at,
                    tickets_at + 8 * stage,
                    slot,
                    longest,
                    problem.num_heads,
                    problem.num_kv_heads,
                    problem.head_dim,
                    problem.head_dim_v,
                    scale,
                    softcap,
                    address_of(shares),
                    mask_step,
                )

            run_on_threads(work, threads, tickets_at + 8 * stage)

        def add_up_mask(slot: int) -> None:
            standard_mask_gradient(
                number(0),
                table,
                sequences,
                features_at,
                tickets_at + 8 * (_TICKETS - 1),
                slot,
                problem.num_heads,
                problem.seqlen_q,
                problem.seqlen_k,
                scale,
                softcap,
                mask_step,
            )

        for stage in (P_GRADIENT, SCORE_GRADIENT):
            run(stage)
        if dmask is not None:
            run_on_threads(add_up_mask, threads, tickets_at + 8 * (_TICKETS - 1))
        for stage in (KEY_GRADIENTS, QUERY_GRADIENT):
            run(stage)
        if room is not dv:
            dv[...] = room
        dsinks = shares.sum(axis=(0, 2)).astype(q.dtype) if problem.sinks else None
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Of arrays by heads, (batch, heads, seqlen, head_dim). The scores; the backward's own are dp beside
        what its forward kept: P, and more with softcap and dropout.
        """
        plan = _plan(problem)
        scores = plan.scores * problem.itemsize
        kept = scores * (1 + (problem.softcap is not None) + bool(problem.dropout))
        packed = threads_for(problem, "fwd", settings) * plan.stride + ALIGNMENT
        shares = 8 * problem.batch * problem.num_heads * -(-plan.longest // ROW_TILE)
        most = {
            "fwd": scores + packed,
            "bwd": scores + shares,
            "fwd_bwd": kept + max(packed, scores + shares),
        }[direction]
        return most + FEATURE_BYTES


class _Plan(NamedTuple):
    """What a problem's shape decides."""

    scores: int  # how many there are
    longest: int  # the most queries or padded keys of a sequence
    hides: bool  # whether any score may be hidden, a padded one too
    packed: int  # bytes of a thread's packed keys
    stride: (
        int  # what a thread needs for them; none where a head of each sequence's o, without gaps, has room
    )


def _columns(problem: AttentionProblem, seqlen_k: Any) -> Any:
    """Of a sequence's slab of scores: packed sequences have their own sizes, others are padded as keys."""
    return seqlen_k if problem.packed else 0 * seqlen_k + problem.seqlen_k


def _plan(problem: AttentionProblem) -> _Plan:
    scores, longest, longest_keys, room = 0, 0, 0, True
    for (seqlen_q, seqlen_k), count in problem.length_counts.items():
        columns = _columns(problem, seqlen_k)
        scores += count * problem.num_heads * seqlen_q * columns
        longest, longest_keys = max(longest, seqlen_q), max(longest_keys, columns)
        room &= columns * problem.head_dim <= seqlen_q * problem.head_dim_v or seqlen_q == 0
    padded = problem.key_lengths is not None and not problem.packed
    packed = aligned(min(KEY_TILE, longest_keys) * problem.head_dim * problem.itemsize)
    return _Plan(
        scores,
        max(longest, longest_keys),
        padded or problem.masked or problem.mask is not None,
        packed,
        0 if room else packed,
    )


@lru_cache(maxsize=64)  # which takes longer than a small problem's attention
def _sequences(problem: AttentionProblem) -> NDArray[np.int64]:
    """The table of sequences, with where their scores lie."""
    table = np.empty((problem.batch, SLAB + 1), dtype=np.int64)
    table[:, :COLUMNS] = sequence_table(problem, no_tasks)
    table[:, COLUMNS] = _columns(problem, table[:, SEQLEN_K])
    ends = np.cumsum(problem.num_heads * table[:, SEQLEN_Q] * table[:, COLUMNS])
    table[0, SLAB] = 0
    table[1:, SLAB] = ends[:-1]
    return table


def _flat(scores: Array) -> Array:
    """As arrays in a table are."""
    return scores[np.newaxis, np.newaxis, :, np.newaxis]
