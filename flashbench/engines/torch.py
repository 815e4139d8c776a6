"""PyTorch's CPU flash attention, called as PyTorch calls it, on the caller's own memory."""

from __future__ import annotations

import os
from typing import Any

import torch

from flashbench.engines import Array, AttentionGradients, Forward, Settings
from flashbench.problem import AttentionProblem, Direction

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

_VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
# https://github.com/pytorch/pytorch/pull/157893 taught the operator to share key heads.
_SHARES_KEY_HEADS = (2, 9)


class TorchFlashEngine:
    """`torch.nn.functional.scaled_dot_product_attention` on CPU tensors, without its dispatch.

    Its operators take the innermost dimension for contiguous without looking, so other arrays are
    copied; and what its mask hides weighs zero in some products, so that a NaN there leaks: a hidden
    value's into o, a query's or do's into dk of keys that the query does not see.
    """

    name = "torch-flash"
    summary = f"the CPU flash attention of PyTorch {torch.__version__}"

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """PyTorch's own checks, and what its operator would read as another problem."""
        if problem.head_dim != problem.head_dim_v:
            return (
                "PyTorch's CPU flash attention needs head_dim_v equal to head_dim, not"
                f" {problem.head_dim_v} and {problem.head_dim}"
            )
        if problem.causal and problem.diagonal_offset:
            return (
                "PyTorch's is_causal aligns top-left: bottom-right is the same only when seqlen_q equals"
                f" seqlen_k, not for {problem.seqlen_q} and {problem.seqlen_k}"
            )
        if problem.causal and problem.scale <= 0.0:
            # It multiplies the masked scores, -inf, by the scale.
            return f"PyTorch's is_causal needs a softmax_scale above 0, not {problem.scale}"
        if problem.num_heads != problem.num_kv_heads and _VERSION < _SHARES_KEY_HEADS:
            return f"num_kv_heads below num_heads needs PyTorch 2.9 or later, not {torch.__version__}"
        return None

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        keep: bool = False,
    ) -> Forward:
        """o and lse; nothing else needs saving."""
        _set_threads(settings.num_threads)
        o, lse = _FORWARD(_tensor(q), _tensor(k), _tensor(v), 0.0, problem.causal, scale=problem.scale)
        return Forward(o.numpy(), lse.numpy())

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
    ) -> AttentionGradients:
        """Gradients from do, q, k, v, o and lse."""
        _set_threads(settings.num_threads)
        tensors = [_tensor(x) for x in (do, q, k, v, forward.o, forward.lse)]
        dq, dk, dv = _BACKWARD(*tensors, 0.0, problem.causal, scale=problem.scale)
        return AttentionGradients(dq.numpy(), dk.numpy(), dv.numpy())

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """None: its block sizes are its own affair."""
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """None: unknown without running."""
        return None


def _tensor(x: Array) -> Any:
    """The array's memory as a tensor; a copy where torch cannot read it as it lies."""
    shareable = (
        x.flags.writeable
        and x.flags.aligned
        and x.strides[-1] == x.itemsize
        and all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
    )
    return torch.from_numpy(x if shareable else x.copy(order="C"))


def _set_threads(num_threads: int | None) -> None:
    """PyTorch's threads are the process's: set them each time, for an earlier call may have."""
    if num_threads is None:
        num_threads = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
