"""Engine `standard`: scores materialised, softmax in place, P kept for the backward pass."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT, aligned
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import accumulator_of
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.features import call_features
from flashbench.engines.launch import (
    CallMemory,
    Counters,
    Launch,
    Rows,
    address_of,
    broadcast_gradient,
    no_tasks,
    place,
    place_numbers,
    readable,
    result_like,
    sequence_table,
    sizes_of,
    threads_for,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import Array as ArrayPlace
from flashbench.kernels.call.structs import Numbers
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.kernels.standard.call import Scores, SlabSequence, Stages, StandardCall
from flashbench.kernels.standard.mask_gradient import standard_mask_gradient
from flashbench.kernels.standard.stages import (
    KEY_GRADIENTS,
    KEY_TILE,
    MASK_GRADIENT,
    OUTPUT,
    P_GRADIENT,
    QUERY_GRADIENT,
    ROW_TILE,
    SCORE_GRADIENT,
    SCORES,
    SOFTMAX,
    STAGES,
    standard_backward,
    standard_forward,
)
from flashbench.problem import AttentionProblem, Direction, Feature

_NOWHERE = ArrayPlace(0, 0, 0, 0)
_NO_NUMBERS = Numbers(*_NOWHERE)
_COLUMN = SlabSequence(*range(len(SlabSequence._fields)))  # column indices of the table, by name


class Kept(NamedTuple):
    """The arrays that the forward pass keeps for the backward pass. Each has the slabs of all sequences."""

    p: Array
    tanh: Array | None = None  # with softcap
    dropped: Array | None = None  # with dropout: o = dropped @ v

    def scores(self, dp: Array | None = None) -> Scores:
        """Their addresses."""
        p = address_of(self.p)
        tanh = p if self.tanh is None else address_of(self.tanh)
        dropped = p if self.dropped is None else address_of(self.dropped)
        return Scores(p, tanh, dropped, 0 if dp is None else address_of(dp))


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
        o, lse = result_like(q, problem.head_dim_v), np.empty(shape, accumulator_of(problem.dtype).storage)
        plan, sequences = _plan(problem), _sequences(problem)
        scores, longest, hides = plan[:3]
        stride = plan.stride if o.flags.c_contiguous else plan.packed
        kept = Kept(
            np.empty(scores, q.dtype),
            np.empty(scores, q.dtype) if keep and problem.softcap is not None else None,
            np.empty(scores, q.dtype) if keep and problem.dropout else None,
        )
        threads = threads_for(problem, "fwd", settings)
        q, k, v = readable(q), readable(k), readable(v)
        features, arrays = call_features(problem, extras)
        counters = Counters(tickets=STAGES, finite=problem.batch * problem.num_kv_heads)
        memory = CallMemory(threads, stride, counters, Rows.of(sequences))
        work = memory.work()
        natural = bool(problem.softcap or problem.alibi or problem.sinks or problem.mask == "float")
        call = StandardCall(
            place(q),
            place(k),
            place(v),
            place(o),
            place_numbers(lse),
            kept.scores(),
            *(_NOWHERE,) * 4,
            _NO_NUMBERS,
            Stages(
                hides,
                longest,
                natural,
                factor=problem.scale / (problem.softcap or 1.0) * (1.0 if natural else LOG2E),
                softcap=problem.softcap or 0.0,
                packed=work.scratch if stride else 0,
                packed_stride=stride,
            ),
            sizes_of(problem, 0, 0),
            work,
            features,
        )
        launch = Launch(call, threads)
        for stage in (SCORES, SOFTMAX, OUTPUT):
            launch.run(standard_forward(problem.dtype), stage, ticket=stage)
        del memory, arrays  # keep them alive until here: the kernels have only their addresses
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
        kept: Kept = forward.saved
        dq, dk, dv = (result_like(x, x.shape[3]) for x in (q, k, v))
        # The kernels first pack v into dv's memory, so the rows of a head must be contiguous.
        room = dv if dv.flags.c_contiguous else np.empty(dv.shape, dv.dtype)
        dp = np.empty_like(kept.p)
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = np.zeros(problem.mask_shape, dtype=q.dtype)
        sequences, (_, longest, hides) = _sequences(problem), _plan(problem)[:3]
        threads = threads_for(problem, "fwd", settings)
        do, q, k, v = readable(do), readable(q), readable(k), readable(v)
        lse = forward.lse
        assert lse is not None  # our forward returns it; callers with their own `Forward` must set it
        features, arrays = call_features(problem, extras)
        finite = problem.batch * (2 * problem.num_heads + problem.num_kv_heads)
        memory = CallMemory(threads, 0, Counters(tickets=STAGES, finite=finite), Rows.of(sequences))
        shares = np.zeros((len(sequences), problem.num_heads, -(-longest // ROW_TILE)))
        call = StandardCall(
            place(q),
            place(k),
            place(v),
            _NOWHERE,  # the gradients need P, not o
            place_numbers(lse),
            kept.scores(dp),
            place(do),
            place(dq),
            place(dk),
            place(room),
            _NO_NUMBERS if dmask is None else place_numbers(broadcast_gradient(dmask, dmask.shape)),
            Stages(
                hides,
                longest,
                softcap=problem.softcap or 0.0,
                sink_shares=address_of(shares),
                mask_step=-1 if dmask is None else int(dmask.shape[3] > 1),
            ),
            sizes_of(problem, 0, 0),
            memory.work(),
            features,
        )
        launch = Launch(call, threads)
        for stage in (P_GRADIENT, SCORE_GRADIENT):
            launch.run(standard_backward(problem.dtype), stage, ticket=stage)
        if dmask is not None:
            lengths = problem.seqlen_q, problem.seqlen_k
            launch.run(standard_mask_gradient(problem.dtype), *lengths, ticket=MASK_GRADIENT)
        for stage in (KEY_GRADIENTS, QUERY_GRADIENT):
            launch.run(standard_backward(problem.dtype), stage, ticket=stage)
        del memory, arrays
        if room is not dv:
            dv[...] = room
        dsinks = shares.sum(axis=(0, 2)).astype(q.dtype) if problem.sinks else None
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Bytes for arrays in memory order (batch, heads, seqlen, head_dim).

        The forward pass needs the scores. The backward pass needs dp; its forward pass keeps P, tanh with
        softcap, and dropped with dropout.
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
        return most + struct_bytes(StandardCall)


class _Plan(NamedTuple):
    """Sizes that depend on the problem's shape only."""

    scores: int  # number of scores
    longest: int  # the largest number of queries or padded keys in a sequence
    hides: bool  # some pair may be hidden, also by padding
    packed: int  # bytes of packed keys per thread
    stride: int  # bytes to allocate for them per thread; 0 if each head of a contiguous o has room


def _columns(problem: AttentionProblem, seqlen_k: Any) -> Any:
    """Columns of a sequence's slab: its own keys if sequences are packed, else the padded keys."""
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


@lru_cache(maxsize=64)  # making the table takes longer than attention on a small problem
def _sequences(problem: AttentionProblem) -> NDArray[np.int64]:
    """The table of sequences, with the places of their scores: one `SlabSequence` per row."""
    table = np.empty((problem.batch, len(_COLUMN)), dtype=np.int64)
    table[:, : _COLUMN.columns] = sequence_table(problem, no_tasks)
    table[:, _COLUMN.columns] = _columns(problem, table[:, _COLUMN.seqlen_k])
    ends = np.cumsum(problem.num_heads * table[:, _COLUMN.seqlen_q] * table[:, _COLUMN.columns])
    table[0, _COLUMN.slab] = 0
    table[1:, _COLUMN.slab] = ends[:-1]
    return table
