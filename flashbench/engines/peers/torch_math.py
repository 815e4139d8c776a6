"""PyTorch's attention by plain operators and autograd: its `math` backend, which runs on every device."""

from __future__ import annotations

from typing import Any

import torch

from flashbench.engines.peers import TorchMathOutline
from flashbench.engines.peers.torch_tensors import Attend, backward_through, forward_with_graph, set_threads
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction

_ATTEND = torch.ops.aten._scaled_dot_product_attention_math


class TorchMathEngine(TorchMathOutline):
    """`scaled_dot_product_attention` under `sdpa_kernel(SDPBackend.MATH)`: every score in memory.

    Its is_causal aligns top-left. For bottom-right the engine makes a mask in the call, as PyTorch documents
    (`torch.nn.attention.bias.causal_lower_right`). Hidden pairs have a weight of zero, so a NaN there leaks.
    """

    summary = "PyTorch's math attention: scores materialised, autograd"

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
        """o; keep=True also saves autograd's graph, which holds P."""
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
        """Autograd's gradients: through `forward.saved`, or through a new forward."""
        set_threads(settings.num_threads)
        graph = forward.saved
        if graph is None:
            graph = forward_with_graph(_attend(problem), q, k, v, keep=True).saved
        return backward_through(graph, do)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Always the same one, by PyTorch's name."""
        return Ran("math")


def _attend(problem: AttentionProblem) -> Attend:
    bottom_right = problem.masked and problem.diagonal_offset != 0

    def attend(q: Any, k: Any, v: Any) -> Any:
        mask = None
        if bottom_right:
            hidden = torch.full((problem.seqlen_q, problem.seqlen_k), -torch.inf, dtype=q.dtype)
            mask = hidden.triu_(problem.diagonal_offset + 1)  # added to the scores
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
