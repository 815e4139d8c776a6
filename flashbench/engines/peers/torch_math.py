"""PyTorch's attention by plain operators: what its `math` backend runs on every device, and autograd."""

from __future__ import annotations

from typing import Any

import torch

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.engines.peers.torch_tensors import Attend, backward_through, forward_with_graph, set_threads
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature

_ATTEND = torch.ops.aten._scaled_dot_product_attention_math


class TorchMathEngine:
    """`scaled_dot_product_attention` under `sdpa_kernel(SDPBackend.MATH)`: every score in memory.

    Its is_causal aligns top-left; bottom-right is what PyTorch documents for that, a mask made by the
    caller (`torch.nn.attention.bias.causal_lower_right`). Either mask is made in the call. What a mask
    hides weighs zero, so that a NaN there leaks.
    """

    name = "torch-math"
    summary = "PyTorch's math attention: scores materialised, autograd"
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset()

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """None: everything runs here."""
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
        """o; keep=True saves autograd's graph, with P in it."""
        set_threads(settings.num_threads)
        return forward_with_graph(_attend(problem), q, k, v, keep=keep)

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
        """Autograd's gradients, through `forward.saved` or a forward of its own."""
        set_threads(settings.num_threads)
        graph = forward.saved
        if graph is None:
            graph = forward_with_graph(_attend(problem), q, k, v, keep=True).saved
        return backward_through(graph, do)

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """None: nothing is tiled."""
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """None: unknown without running."""
        return None

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """The one that is called, in PyTorch's name for it."""
        return Ran("math")


def _attend(problem: AttentionProblem) -> Attend:
    bottom_right = problem.masked and problem.diagonal_offset != 0

    def attend(q: Any, k: Any, v: Any) -> Any:
        mask = None
        if bottom_right:
            hidden = torch.full((problem.seqlen_q, problem.seqlen_k), -torch.inf, dtype=q.dtype)
            mask = hidden.triu_(problem.diagonal_offset + 1)  # what it adds to the scores
        o, _ = _ATTEND(
            q,
            k,
            v,
            mask,
            0.0,
            problem.masked and not bottom_right,
            scale=problem.scale,
            enable_gqa=problem.num_heads != problem.num_kv_heads,
        )
        return o

    return attend
