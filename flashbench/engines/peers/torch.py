"""PyTorch's CPU flash attention, called as PyTorch calls it, on the caller's own memory."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from flashbench.engines.peers import TorchFlashOutline
from flashbench.engines.peers.torch_tensors import (
    array,
    backward_through,
    forward_with_graph,
    set_threads,
    tensor,
)
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# The numbers of torch.nn.attention.SDPBackend, in which PyTorch names the kernel that it chooses.
_MATH, _FLASH = 0, 1
_KERNELS = {_MATH: "math", _FLASH: "flash"}


class TorchFlashEngine(TorchFlashOutline):
    """`torch.nn.functional.scaled_dot_product_attention` on 4-D CPU tensors.

    Each call asks PyTorch which kernel it would choose.

    - Flash: the engine calls the operator directly, which also returns lse, and whose backward needs no
      autograd. The operator assumes that the innermost dimension is contiguous, so other arrays are copied.
      Its mask gives hidden pairs a weight of zero in some products, so a NaN leaks: from a hidden value into
      o, and from a query or do into dk of keys that the query does not see.
    - Another kernel: the engine calls the public function, which runs it.
    """

    summary = "PyTorch's CPU flash attention, or what PyTorch falls back to"

    def __init__(self) -> None:
        self._chosen: dict[AttentionProblem, int] = {}

    def _release(self) -> str:
        return str(torch.__version__)

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
        """Flash: o and lse, which its backward reads. A fallback: o, and autograd's graph in `saved`."""
        set_threads(settings.num_threads)
        tensors = tensor(q), tensor(k), tensor(v)
        if self._choose(problem, *tensors) == _FLASH:
            o, lse = _FORWARD(*tensors, 0.0, problem.masked, scale=problem.scale)
            return Forward(array(o), array(lse))
        return forward_with_graph(_public(problem), q, k, v, keep=keep)

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
        """Flash: gradients from do, q, k, v, o and lse. A fallback: autograd's."""
        set_threads(settings.num_threads)
        if forward.saved is not None:
            return backward_through(forward.saved, do)
        tensors = [tensor(x) for x in (do, q, k, v)]
        if self._choose(problem, *tensors[1:]) != _FLASH:
            kept = forward_with_graph(_public(problem), q, k, v, keep=True)
            return backward_through(kept.saved, do)
        assert forward.lse is not None  # flash gives it, and callers who bring their own must bring it
        tensors += [tensor(forward.o), tensor(forward.lse)]
        dq, dk, dv = _BACKWARD(*tensors, 0.0, problem.masked, scale=problem.scale)
        return AttentionGradients(array(dq), array(dk), array(dv))

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """The kernel that PyTorch chose in the last call."""
        choice = self._chosen.get(problem)
        if choice is None:
            return None
        kernel = _KERNELS.get(choice, f"number {choice} of torch.nn.attention.SDPBackend")
        if choice == _FLASH:
            return Ran(kernel)
        note = f"PyTorch fell back to its {kernel} kernel"
        if problem.head_dim != problem.head_dim_v:
            note += f": head_dim_v ({problem.head_dim_v}) differs from head_dim ({problem.head_dim})"
        return Ran(kernel, note)

    def _choose(self, problem: AttentionProblem, q: Any, k: Any, v: Any) -> int:
        choice: int = torch._fused_sdp_choice(
            q, k, v, None, 0.0, problem.masked, scale=problem.scale, enable_gqa=_shares_heads(problem)
        )
        self._chosen[problem] = choice
        return choice


def _public(problem: AttentionProblem) -> Any:
    """PyTorch's function of q, k and v."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        return scaled_dot_product_attention(
            q, k, v, is_causal=problem.masked, scale=problem.scale, enable_gqa=_shares_heads(problem)
        )

    return attend


def _shares_heads(problem: AttentionProblem) -> bool:
    return problem.num_heads != problem.num_kv_heads
