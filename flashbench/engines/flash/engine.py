"""Engine `flash`: tiled attention with an online softmax, backward by recomputation."""

from __future__ import annotations

from flashbench.dtypes import NARROWEST_FIRST
from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.engines.base import EngineBase
from flashbench.engines.flash.backward import prepared_backward
from flashbench.engines.flash.decode import decode_bytes, decode_plan, decodes
from flashbench.engines.flash.forward import prepared_forward
from flashbench.engines.flash.plan import call_bytes, path_for, plan_of
from flashbench.engines.flash.scalar import backward_by_loops, forward_by_loops, workspace_of_loops
from flashbench.extras import NO_EXTRAS, Extras
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
        prepared = prepared_forward(problem, settings, q.strides, k.strides, v.strides)
        return prepared.run(q, k, v, extras)

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
        o, lse = forward.o, forward.lse
        assert lse is not None  # our forward returns it; callers with their own `Forward` must set it
        strides = do.strides, q.strides, k.strides, v.strides, o.strides, lse.strides
        prepared = prepared_backward(problem, settings, *strides)
        return prepared.run(do, q, k, v, o, lse, extras, mask_gradient=mask_gradient)

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
        """Bytes; exact if no array is copied to be readable and the rows of a head are contiguous."""
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
