"""Engine `standard`: scores materialised, softmax in place, P kept for its backward."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.features import FEATURE_BYTES, kernel_features
from flashbench.engines.launch import (
    address_of,
    aligned_scratch,
    array_table,
    broadcast_gradient,
    readable,
    sequence_table,
    threads_for,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.blocks import ALIGNMENT, aligned
from flashbench.kernels.features import SEQLEN_K, SEQLEN_Q
from flashbench.kernels.standard import (
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
from flashbench.kernels.standard_rows import COLUMNS, SLAB
from flashbench.kernels.threads import run_on_threads
from flashbench.problem import AttentionProblem, Direction, Feature

LOG2E = math.log2(math.e)
_TICKETS = 5  # a counter for each stage, and one for dmask


class Kept(NamedTuple):
    """What the backward reads: P, and what features make of scores and of P, each as long as all slabs."""

    p: Array
    tanh: Array | None = None  # with softcap
    dropped: Array | None = None  # with dropout: what o was made of


class StandardEngine:
    """The strongest fair baseline: the same micro-kernel and exponential, scores in memory."""

    name = "standard"
    summary = "scores materialised, softmax in place (Numba, the same SIMD products as flash)"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset(
        {"window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout"}
    )

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
        shape = problem.q_shape[:3]
        o, lse = np.empty((*shape, problem.head_dim_v), dtype=q.dtype), np.empty(shape, dtype=q.dtype)
        sequences, scores = _slabs(problem)
        p, tanh, dropped = kept = Kept(
            np.empty(scores, q.dtype),
            np.empty(scores, q.dtype) if keep and problem.softcap is not None else None,
            np.empty(scores, q.dtype) if keep and problem.dropout else None,
        )
        longest, hides = _longest(sequences), _hides(problem)
        threads = threads_for(problem, "fwd", settings)
        stride = _scratch_stride(problem)
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
        tickets = np.zeros(_TICKETS, dtype=np.int64)
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
                    features.whole,
                    features.numbers,
                    hides,
                    address_of(tickets) + 8 * stage,
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

            run_on_threads(work, threads)
        del scratch  # it had to live until here: the kernels know only its address
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
        dq, dk, dv = (np.empty(x.shape, dtype=q.dtype) for x in (q, k, v))
        dp = np.empty_like(p)
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = np.zeros(problem.mask_shape, dtype=q.dtype)
        sequences, _ = _slabs(problem)
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
            dv,
            *(() if dmask is None else (broadcast_gradient(dmask, dmask.shape),)),
        )
        features = kernel_features(problem, extras)
        tickets = np.zeros(_TICKETS, dtype=np.int64)
        longest, hides = _longest(sequences), _hides(problem)
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
                    features.whole,
                    features.numbers,
                    hides,
                    address_of(tickets) + 8 * stage,
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

            run_on_threads(work, threads)

        def add_up_mask(slot: int) -> None:
            standard_mask_gradient(
                number(0),
                table,
                sequences,
                features.whole,
                address_of(tickets) + 8 * (_TICKETS - 1),
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
            run_on_threads(add_up_mask, threads)
        for stage in (KEY_GRADIENTS, QUERY_GRADIENT):
            run(stage)
        dsinks = shares.sum(axis=(0, 2)).astype(q.dtype) if problem.sinks else None
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """The scores; the backward's own are dp beside what its forward kept: P, and more with softcap and
        dropout.
        """
        sequences, count = _slabs(problem)
        scores = count * problem.itemsize
        kept = scores * (1 + (problem.softcap is not None) + bool(problem.dropout))
        packed = threads_for(problem, "fwd", settings) * _scratch_stride(problem) + ALIGNMENT
        shares = 8 * len(sequences) * problem.num_heads * -(-_longest(sequences) // ROW_TILE)
        most = {
            "fwd": scores + packed,
            "bwd": scores + shares,
            "fwd_bwd": kept + max(packed, scores + shares),
        }[direction]
        return most + sequences.nbytes + FEATURE_BYTES

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None: there is one."""
        return None


def _slabs(problem: AttentionProblem) -> tuple[NDArray[np.int64], int]:
    """The table of sequences with where their scores lie, and how many scores there are.

    Packed sequences have slabs of their own sizes; others are padded, as their keys are.
    """
    table = np.empty((problem.batch, SLAB + 1), dtype=np.int64)
    table[:, :COLUMNS] = sequence_table(problem, lambda sequence: 0)
    table[:, COLUMNS] = table[:, SEQLEN_K] if problem.packed else problem.seqlen_k
    ends = np.cumsum(problem.num_heads * table[:, SEQLEN_Q] * table[:, COLUMNS])
    table[0, SLAB] = 0
    table[1:, SLAB] = ends[:-1]
    return table, int(ends[-1])


def _hides(problem: AttentionProblem) -> bool:
    """Whether any score may be hidden, a padded one too."""
    padded = problem.key_lengths is not None and not problem.packed
    return padded or problem.masked or problem.mask is not None


def _longest(sequences: NDArray[np.int64]) -> int:
    """The most queries or padded keys of a sequence."""
    return int(max(sequences[:, SEQLEN_Q].max(), sequences[:, COLUMNS].max()))


def _flat(scores: Array) -> Array:
    """As arrays in a table are."""
    return scores[np.newaxis, np.newaxis, :, np.newaxis]


def _scratch_stride(problem: AttentionProblem) -> int:
    """Bytes a thread needs for packed keys; none where a head of every sequence's o can hold them."""
    sequences, _ = _slabs(problem)
    queries, columns = sequences[:, SEQLEN_Q], sequences[:, COLUMNS]
    if ((columns * problem.head_dim <= queries * problem.head_dim_v) | (queries == 0)).all():
        return 0
    return aligned(min(KEY_TILE, int(columns.max())) * problem.head_dim * problem.itemsize)
