"""Engine `flash`: tiled attention with an online softmax, backward by recomputation."""

from __future__ import annotations

import numpy as np

from flashbench.codegen.scratch import ALIGNMENT
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.features import kernel_features, mask_shape, sinks_gradient
from flashbench.engines.flash.decode import decode, decode_bytes, decode_plan, decodes
from flashbench.engines.flash.plan import (
    all_tiles,
    backward_plan,
    backward_stride,
    chains_of,
    forward_plan,
    forward_stride,
    mask_gradient_stride,
    readers_of,
    tiles_of,
    told_bytes,
)
from flashbench.engines.flash.scalar import backward_by_loops, forward_by_loops, workspace_of_loops
from flashbench.engines.launch import (
    BYTE,
    address_of,
    aligned_scratch,
    array_table,
    moves_table,
    near_room,
    readable,
    result_like,
    rooms_for,
    sequence_table,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.flash.backward import flash_backward
from flashbench.kernels.flash.forward import flash_forward
from flashbench.kernels.flash.gather import TICKETS
from flashbench.kernels.flash.mask_gradient import flash_mask_gradient
from flashbench.problem import AttentionProblem, Direction, Feature
from flashbench.threads.pool import run_on_threads

_FORWARD_ARRAYS = 5
_BACKWARD_ARRAYS = 11
_TABLE_ROW_BYTES = 32


class FlashEngine(EngineBase):
    """Numba kernels whose workspace does not grow with seqlen squared."""

    name = "flash"
    summary = "tiled, online softmax, backward by recomputation (Numba, SIMD)"
    features: frozenset[Feature] = frozenset(
        ("window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout", "block_table")
    )

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        if problem.page_size is None:
            return None
        if direction != "fwd":
            return "keys in pages have no backward"
        if problem.mask == "block" or problem.dropout > 0:
            return "keys in pages go with no block mask and no dropout"
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
        if not settings.use_simd:
            return forward_by_loops(problem, q, k, v, extras)
        if decodes(problem, settings):
            return decode(problem, settings, q, k, v, extras)
        o = result_like(q, problem.head_dim_v)
        lse = np.empty(problem.q_shape[:3], dtype=q.dtype)
        threads, blocks = forward_plan(problem, settings)
        itemsize = q.itemsize
        q, k, v = readable(q), readable(k), readable(v)
        readers = readers_of(problem)
        near_k, near_v = near_room(k, readers), near_room(v, readers)
        moves = moves_table((k, near_k), (v, near_v))
        rooms, stride = rooms_for([(o, blocks.block_q)], forward_stride(problem, blocks))
        table = array_table(q, near_k, near_v, o, lse[..., np.newaxis])
        sequences = sequence_table(problem, tiles_of(problem, blocks))
        features = kernel_features(problem, extras)
        tickets = np.zeros(TICKETS + 1, dtype=np.int64)
        finite = np.zeros(chains_of(problem), dtype=np.int64)
        tickets_address = address_of(tickets)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type
        tasks = problem.num_heads * all_tiles(problem, blocks)

        def work(slot: int) -> None:
            flash_forward(
                number(0),
                BYTE,
                itemsize,
                table,
                moves,
                sequences,
                features.whole,
                features.numbers,
                tickets_address,
                address_of(finite),
                scratch_address,
                stride,
                slot,
                tasks,
                problem.num_heads,
                problem.num_heads // problem.num_kv_heads,
                problem.head_dim,
                problem.head_dim_v,
                blocks.block_q,
                blocks.block_k,
                *rooms,
            )

        run_on_threads(work, threads, tickets_address)
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
        if not settings.use_simd:
            return backward_by_loops(problem, do, q, k, v, forward, extras, mask_gradient=mask_gradient)
        dq = result_like(q, problem.head_dim)
        # Keys beyond a sequence's own are nobody's task.
        dk, dv = (result_like(x, x.shape[3], zeros=problem.key_lengths is not None) for x in (k, v))
        o, lse = forward.o, forward.lse
        assert lse is not None  # ours gives it, and callers who bring their own must bring it
        dsinks = sinks_gradient(problem, extras, do, o, lse)
        threads, blocks = backward_plan(problem, settings)
        itemsize = q.itemsize
        do, q, k, v, o = readable(do), readable(q), readable(k), readable(v), readable(o)
        block_q, block_k = blocks
        readers = readers_of(problem)
        near_k, near_v = near_room(k, readers), near_room(v, readers)
        near_dk, near_dv = near_room(dk, readers), near_room(dv, readers)
        moves = moves_table((k, near_k), (v, near_v))
        tiles = [(q, block_q), (do, block_q), (dq, block_q)]
        rooms, stride = rooms_for(tiles, backward_stride(problem, blocks))
        lse = readable(lse[..., np.newaxis])  # a copy, too, has to live as long as its address is used
        table = array_table(q, near_k, near_v, o, lse, do, dq, near_dk, near_dv, dk, dv)
        sequences = sequence_table(problem, tiles_of(problem, blocks))
        features = kernel_features(problem, extras)
        tickets = np.zeros(TICKETS + 1 + chains_of(problem), dtype=np.int64)
        finite = np.zeros(chains_of(problem), dtype=np.int64)
        progress = np.zeros(problem.num_heads * all_tiles(problem, blocks), dtype=np.int64)
        tickets_address = address_of(tickets)
        scratch, scratch_address = aligned_scratch(threads * stride)
        number = q.dtype.type

        def work(slot: int) -> None:
            flash_backward(
                number(0),
                BYTE,
                itemsize,
                table,
                moves,
                sequences,
                features.whole,
                features.numbers,
                tickets_address,
                address_of(progress),
                address_of(finite),
                scratch_address,
                stride,
                slot,
                problem.num_heads,
                problem.num_kv_heads,
                problem.head_dim,
                problem.head_dim_v,
                number(problem.scale),
                block_q,
                block_k,
                *rooms,
            )

        run_on_threads(work, threads, tickets_address)
        del scratch
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = _mask_gradient(problem, settings, extras, do, q, near_k, near_v, o, lse)
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """The forward pass's blocks where both directions run, as theirs may differ."""
        if not settings.use_simd:
            return None
        if direction != "bwd" and decodes(problem, settings):
            plan = decode_plan(problem, settings)
            return plan.chunk, plan.block_k
        plan_of = backward_plan if direction == "bwd" else forward_plan
        blocks = plan_of(problem, settings)[1]
        return blocks.block_q, blocks.block_k

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Exact for arrays that `readable` need not copy and whose rows are neighbours."""
        if not settings.use_simd:
            return workspace_of_loops(problem)
        needs = []
        if direction != "bwd" and decodes(problem, settings):
            needs.append(decode_bytes(problem, settings))
        elif direction != "bwd":
            threads, blocks = forward_plan(problem, settings)
            scratch = threads * forward_stride(problem, blocks) + ALIGNMENT
            needs.append(
                scratch + _FORWARD_ARRAYS * _TABLE_ROW_BYTES + told_bytes(problem) + 8 * (TICKETS + 1)
            )
        if direction != "fwd":
            threads, blocks = backward_plan(problem, settings)
            scratch = threads * backward_stride(problem, blocks) + ALIGNMENT
            shared = _BACKWARD_ARRAYS * _TABLE_ROW_BYTES + told_bytes(problem)
            shared += 8 * (TICKETS + 1 + chains_of(problem) + problem.num_heads * all_tiles(problem, blocks))
            needs.append(scratch + shared)
        return max(needs)


def _mask_gradient(
    problem: AttentionProblem,
    settings: Settings,
    extras: Extras,
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    o: Array,
    lse: Array,
) -> Array:
    """dmask in the mask's own shape; the arrays are such that a kernel can read them."""
    threads, blocks = backward_plan(problem, settings)
    shape = mask_shape(problem)
    dmask = np.zeros(shape, dtype=q.dtype)
    table = array_table(q, k, v, o, lse, do, dmask)
    sequences = sequence_table(problem, tiles_of(problem, blocks))
    features = kernel_features(problem, extras)
    tickets = np.zeros(1, dtype=np.int64)
    tickets_address = address_of(tickets)
    stride = mask_gradient_stride(problem, blocks)
    scratch, scratch_address = aligned_scratch(threads * stride)
    number = q.dtype.type

    def work(slot: int) -> None:
        flash_mask_gradient(
            number(0),
            BYTE,
            q.itemsize,
            table,
            sequences,
            features.whole,
            features.numbers,
            tickets_address,
            scratch_address,
            stride,
            slot,
            shape,
            problem.num_heads,
            problem.num_heads // problem.num_kv_heads,
            problem.head_dim,
            problem.head_dim_v,
            *blocks,
        )

    run_on_threads(work, threads, tickets_address)
    del scratch
    return dmask
