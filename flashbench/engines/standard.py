"""Engine `standard`: scores materialised, softmax in place, P kept for the backward pass."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.codegen.structs import struct_bytes
from flashbench.dtypes import NARROWEST_FIRST, accumulator_of, is_half
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.features import call_features
from flashbench.engines.forms import readable, result_like
from flashbench.engines.launch import (
    NO_WORK,
    Counters,
    PackedCall,
    address_of,
    broadcast_gradient,
    no_tasks,
    place,
    place_numbers,
    sequence_table,
    sizes_of,
    threads_for,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import Array as ArrayPlace
from flashbench.kernels.call.structs import Numbers
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.kernels.standard.access import ROOMS, RoomSizes
from flashbench.kernels.standard.call import Scores, SlabSequence, Stages, StandardCall
from flashbench.kernels.standard.mask_gradient import standard_mask_gradient
from flashbench.kernels.standard.stages import (
    DEPTH,
    KEY_GRADIENTS,
    KEY_TILE,
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

Pass = Literal["fwd", "bwd"]
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
    dtypes = NARROWEST_FIRST

    def isa_path(self, problem: AttentionProblem, direction: Direction, settings: Settings) -> str | None:
        """Multiply-adds, of 16-bit dtypes in float32, whatever the settings say."""
        return "convert" if is_half(problem.dtype) else "fma"

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
        number = accumulator_of(problem.dtype).storage
        o, lse = result_like(q, problem.head_dim_v), np.empty(shape, number)
        plan, sequences = _plan(problem), _sequences(problem)
        scores, longest, hides = plan[:3]
        apart = plan.packs_apart or not o.flags.c_contiguous
        rooms, stride = _rooms(problem, "fwd", apart=apart)
        kept = Kept(
            np.empty(scores, number),
            np.empty(scores, number) if keep and problem.softcap is not None else None,
            np.empty(scores, number) if keep and problem.dropout else None,
        )
        threads = threads_for(problem, "fwd", settings)
        q, k, v = readable(q), readable(k), readable(v)
        features, arrays = call_features(problem, extras)
        counters = Counters(tickets=STAGES, finite=problem.batch * problem.num_kv_heads)
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
                packs_apart=int(apart),
            ),
            rooms,
            sizes_of(problem, 0, 0),
            NO_WORK,
            features,
        )
        memory = PackedCall(call, sequences, counters, stride).begin(threads)
        for stage in (SCORES, SOFTMAX, OUTPUT):
            memory.run(standard_forward(problem.dtype), stage)
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
        # The kernels may first pack v into dv's memory, so the rows of a head must be contiguous.
        room = dv if dv.flags.c_contiguous or is_half(problem.dtype) else np.empty(dv.shape, dv.dtype)
        dp = np.empty_like(kept.p)
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = np.zeros(problem.mask_shape, kept.p.dtype)
        sequences, (_, longest, hides) = _sequences(problem), _plan(problem)[:3]
        rooms, stride = _rooms(problem, "bwd")
        threads = threads_for(problem, "fwd", settings)
        do, q, k, v = readable(do), readable(q), readable(k), readable(v)
        lse = forward.lse
        assert lse is not None  # our forward returns it; callers with their own `Forward` must set it
        features, arrays = call_features(problem, extras)
        finite = problem.batch * (2 * problem.num_heads + problem.num_kv_heads)
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
            rooms,
            sizes_of(problem, 0, 0),
            NO_WORK,
            features,
        )
        memory = PackedCall(call, sequences, Counters(tickets=STAGES, finite=finite), stride).begin(threads)
        for stage in (P_GRADIENT, SCORE_GRADIENT):
            memory.run(standard_backward(problem.dtype), stage)
        if dmask is not None:
            lengths = problem.seqlen_q, problem.seqlen_k
            memory.run(standard_mask_gradient(problem.dtype), *lengths)
        for stage in (KEY_GRADIENTS, QUERY_GRADIENT):
            memory.run(standard_backward(problem.dtype), stage)
        del memory, arrays
        if room is not dv:
            dv[...] = room
        dsinks = shares.sum(axis=(0, 2)).astype(kept.p.dtype) if problem.sinks else None
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Bytes for arrays in memory order (batch, heads, seqlen, head_dim).

        The forward pass needs the scores. The backward pass needs dp; its forward pass keeps P, tanh with
        softcap, and dropped with dropout. 16-bit dtypes also need a few tiles per thread.
        """
        plan = _plan(problem)
        scores = plan.scores * accumulator_of(problem.dtype).itemsize
        kept = scores * (1 + (problem.softcap is not None) + bool(problem.dropout))
        threads = threads_for(problem, "fwd", settings)
        forward = threads * _rooms(problem, "fwd", apart=plan.packs_apart)[1] + ALIGNMENT
        rooms = threads * _rooms(problem, "bwd")[1]
        shares = 8 * problem.batch * problem.num_heads * -(-plan.longest // ROW_TILE)
        most = {
            "fwd": scores + forward,
            "bwd": scores + shares + rooms,
            "fwd_bwd": kept + max(forward, scores + shares + rooms),
        }[direction]
        return most + struct_bytes(StandardCall)


class _Plan(NamedTuple):
    """Sizes that depend on the problem's shape only."""

    scores: int  # number of scores
    longest: int  # the largest number of queries or padded keys in a sequence
    hides: bool  # some pair may be hidden, also by padding
    longest_keys: int
    packs_apart: bool  # some head of a contiguous o has no room for its packed keys


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
    return _Plan(
        scores,
        max(longest, longest_keys),
        padded or problem.masked or problem.mask is not None,
        longest_keys,
        not room,
    )


def _rooms(problem: AttentionProblem, direction: Pass, *, apart: bool = False) -> tuple[Any, int]:
    """(offsets of the parts of a thread's scratch, its bytes). apart: the forward packs keys there."""
    plan, number_bytes = _plan(problem), accumulator_of(problem.dtype).itemsize
    head_dim, head_dim_v = problem.head_dim, problem.head_dim_v
    keys = min(KEY_TILE, plan.longest_keys)
    if not is_half(problem.dtype):
        return ROOMS.place(RoomSizes(apart * keys * head_dim, 0, 0, number_bytes))
    packed, summed = (head_dim, head_dim_v) if direction == "fwd" else (head_dim_v, head_dim + head_dim_v)
    operand = min(DEPTH, plan.longest) * max(head_dim, head_dim_v)
    return ROOMS.place(RoomSizes(keys * packed, operand, min(ROW_TILE, plan.longest) * summed, number_bytes))


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
