"""Engine `flash`: tiled attention with an online softmax, backward by recomputation."""

from __future__ import annotations

import numpy as np

from flashbench.dtypes import NARROWEST_FIRST, accumulator_of
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.features import call_features, sinks_gradient
from flashbench.engines.flash.decode import decode, decode_bytes, decode_plan, decodes
from flashbench.engines.flash.plan import (
    OTHERWISE,
    call_bytes,
    path_for,
    plan_of,
    readers_of,
    shared_operands,
    tiling_of,
)
from flashbench.engines.flash.scalar import backward_by_loops, forward_by_loops, workspace_of_loops
from flashbench.engines.launch import (
    CallMemory,
    Launch,
    gathered_room,
    moves_table,
    place,
    place_numbers,
    readable,
    result_like,
    sums_room,
    tile_is_scattered,
)
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.kernels.call.structs import ForwardGathers, Gathers
from flashbench.kernels.flash.backward import BackwardCall, flash_backward
from flashbench.kernels.flash.forward import ForwardCall, flash_forward
from flashbench.kernels.flash.mask_gradient import MaskGradientCall, MaskShape, flash_mask_gradient
from flashbench.kernels.flash.scratch import BACKWARD, FORWARD, MASK_GRADIENT
from flashbench.kernels.products.paths import PATHS
from flashbench.problem import AttentionProblem, Direction, Feature


class FlashEngine(EngineBase):
    """Numba kernels whose workspace does not grow with seqlen squared."""

    name = "flash"
    summary = "tiled, online softmax, backward by recomputation (Numba, SIMD)"
    features: frozenset[Feature] = frozenset(
        ("window", "softcap", "alibi", "sinks", "mask", "key_lengths", "varlen", "dropout", "block_table")
    )

    dtypes = NARROWEST_FIRST

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
        lse = np.empty(problem.q_shape[:3], accumulator_of(problem.dtype).storage)
        threads, blocks = plan_of(problem, "fwd", settings)
        path = path_for(problem, "fwd", settings.path)
        q, k, v = readable(q), readable(k), readable(v)
        readers = readers_of(problem)
        operands = shared_operands(problem, path, blocks, "fwd", k, v)
        laid_out = [operand.source is k for operand in operands]
        gathered_k = k if True in laid_out else gathered_room(k, readers)
        gathered_v = v if False in laid_out else gathered_room(v, readers)
        moves = moves_table((k, gathered_k), (v, gathered_v), operands=operands)
        gathers = Gathers(int(path.copies or tile_is_scattered(o, blocks.block_q)))
        tiling = tiling_of(problem, FORWARD, blocks, path, gathers)
        features, arrays = call_features(problem, extras)
        memory = CallMemory(threads, tiling.stride, tiling.counters, tiling.sequences, moves)
        call = ForwardCall(
            place(q),
            place(gathered_k),
            place(gathered_v),
            place(o),
            place_numbers(lse),
            tiling.scratch,
            ForwardGathers(gathers.sums),
            tiling.sizes,
            memory.work(tiling.tasks),
            features,
        )
        Launch(call, threads).run(flash_forward(path.product, problem.dtype))
        if memory.refused:
            return self.forward(problem, settings._replace(path=OTHERWISE), q, k, v, extras=extras)
        del memory, arrays, operands  # keep them alive until here: the kernel has only their addresses
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
        # No task writes dk and dv of padding keys, so they must be zero before.
        dk, dv = (result_like(x, x.shape[3], zeros=problem.key_lengths is not None) for x in (k, v))
        o, lse = forward.o, forward.lse
        assert lse is not None  # our forward returns it; callers with their own `Forward` must set it
        dsinks = sinks_gradient(problem, extras, do, o, lse)
        threads, blocks = plan_of(problem, "bwd", settings)
        do, q, k, v, o = readable(do), readable(q), readable(k), readable(v), readable(o)
        lse = readable(lse[..., np.newaxis])  # if it is a copy, this name keeps it alive during the call
        readers = readers_of(problem)
        gathered_k, gathered_v = gathered_room(k, readers), gathered_room(v, readers)
        gathered_dk, gathered_dv = (sums_room(x, problem, readers) for x in (dk, dv))
        path = path_for(problem, "bwd", settings.path)
        operands = shared_operands(problem, path, blocks, "bwd", k, v)
        moves = moves_table((k, gathered_k), (v, gathered_v), operands=operands)
        scattered = (int(tile_is_scattered(x, blocks.block_q)) for x in (dq, q, do))
        gathers = Gathers(sums=1) if path.copies else Gathers(*scattered)
        tiling = tiling_of(problem, BACKWARD, blocks, path, gathers)
        features, arrays = call_features(problem, extras)
        memory = CallMemory(threads, tiling.stride, tiling.counters, tiling.sequences, moves)
        call = BackwardCall(
            place(q),
            place(gathered_k),
            place(gathered_v),
            place(o),
            place(do),
            place(dq),
            place_numbers(gathered_dk),
            place_numbers(gathered_dv),
            place(dk),
            place(dv),
            place_numbers(lse),
            tiling.scratch,
            gathers,
            tiling.sizes,
            memory.work(),
            features,
        )
        Launch(call, threads).run(flash_backward(path.product, problem.dtype))
        if memory.refused:
            return self.backward(
                problem,
                settings._replace(path=OTHERWISE),
                do,
                q,
                k,
                v,
                forward,
                extras=extras,
                mask_gradient=mask_gradient,
            )
        del memory, arrays, operands
        dmask = None
        if mask_gradient and problem.mask == "float":
            dmask = _mask_gradient(problem, settings, extras, do, q, gathered_k, gathered_v, o, lse)
        return AttentionGradients(dq, dk, dv, dsinks, dmask)

    def isa_path(self, problem: AttentionProblem, direction: Direction, settings: Settings) -> str | None:
        """The path's name, or that of the product that decodes; None for the scalar loops."""
        if not settings.use_simd:
            return None
        path = path_for(problem, "fwd" if direction == "fwd" else "bwd", settings.path)
        decoding = direction == "fwd" and decodes(problem, settings)
        return (path.decode if decoding else path.product).name

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """(block_q, block_k). For fwd_bwd: of the forward pass, as the two passes may differ."""
        if not settings.use_simd:
            return None
        if direction != "bwd" and decodes(problem, settings):
            plan = decode_plan(problem, settings)
            return plan.chunk, plan.block_k
        _, blocks = plan_of(problem, "bwd" if direction == "bwd" else "fwd", settings)
        return blocks.block_q, blocks.block_k

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Bytes; exact if `readable` copies no array and the rows of a head are contiguous."""
        if not settings.use_simd:
            return workspace_of_loops(problem, direction)
        needs = []
        if direction != "bwd" and decodes(problem, settings):
            needs.append(decode_bytes(problem, settings))
        elif direction != "bwd":
            needs.append(call_bytes(problem, "fwd", settings))
        if direction != "fwd":
            needs.append(call_bytes(problem, "bwd", settings))
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
    """dmask in the shape of the mask. The arrays must already be `readable`."""
    threads, blocks = plan_of(problem, "bwd", settings)
    dmask = np.zeros(problem.mask_shape, accumulator_of(problem.dtype).storage)
    path = path_for(problem, "bwd", settings.path)
    if path.product.halves == 3:  # it refuses some numbers: see `OTHERWISE`
        path = PATHS[OTHERWISE]
    tiling = tiling_of(problem, MASK_GRADIENT, blocks, path)
    features, arrays = call_features(problem, extras)
    memory = CallMemory(threads, tiling.stride, tiling.counters, tiling.sequences)
    call = MaskGradientCall(
        place(q),
        place(k),
        place(v),
        place(o),
        place(do),
        place_numbers(lse),
        place_numbers(dmask),
        MaskShape(*problem.mask_shape),
        tiling.scratch,
        tiling.sizes,
        memory.work(),
        features,
    )
    Launch(call, threads).run(flash_mask_gradient(path.product, problem.dtype))
    del memory, arrays
    return dmask
