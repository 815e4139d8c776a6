"""Attention on plain tensors without PyTorch's dispatcher.

The dispatcher's way through Python takes longer than the attention of a small problem. Code that traces,
records or transforms calls gets the operators of ops.py instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from flashbench.errors import UnsupportedError
from flashbench.integrations.torch import ops
from flashbench.integrations.torch.compute import (
    compute_backward,
    compute_forward,
    compute_output,
    laid_out,
)
from flashbench.integrations.torch.options import TENSORS, Options


def attention(q: Tensor, k: Tensor, v: Tensor, given: Options) -> Tensor:
    """o, differentiable by q, k, v, mask and sinks. q, k and v have contiguous rows (`laid_out`).

    Raises UnsupportedError in forward-mode differentiation.
    """
    mask, sinks = given.mask, given.sinks
    if forward_ad._current_level >= 0:
        _refuse_tangents(q, k, v, mask, sinks)
    if torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (mask is not None and mask.requires_grad)
        or (sinks is not None and sinks.requires_grad)
    ):
        if _is_watched(q, k, v, mask, sinks):
            if _is_transformed() and not torch.compiler.is_compiling():
                return ops.Differentiable.apply(q, k, v, True, *given)[0]
            return ops.attention(q, k, v, True, *given)[0]
        return _Attention.apply(q, k, v, mask, sinks, given)
    if _is_watched(q, k, v, mask, sinks):
        return ops.attention(q, k, v, False, *given)[0]
    return compute_output(q, k, v, given)


def only_computes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a call on these tensors is to compute numbers and nothing else, in their own dtype."""
    if _is_watched(q, k, v) or forward_ad._current_level >= 0 or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad))


def _is_watched(*tensors: Tensor | None) -> bool:
    """Whether something needs to see this call: a compiler, exporter, profiler, mode or transform."""
    if torch.compiler.is_compiling():
        return True
    for x in tensors:
        if x is None:
            continue
        if (type(x) is not Tensor and type(x) is not Parameter) or not torch._C._has_storage(x):
            return True  # a tensor subclass, or a batched tensor of a transform, without its own memory
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or _is_transformed()
        or torch._C._is_tracing()
        or torch.autograd._profiler_enabled()
    )


def _is_transformed() -> bool:
    """Whether a transform of torch.func is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _refuse_tangents(*tensors: Tensor | None) -> None:
    """Refuse forward-mode differentiation: PyTorch would treat the result as a constant."""
    for x in tensors:
        if x is not None and forward_ad.unpack_dual(x).tangent is not None:
            raise UnsupportedError(
                "flashbench's attention has no forward-mode derivative",
                hint="scaled_dot_product_attention leaves it to PyTorch",
            )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None, given: Options
    ) -> Tensor:
        o, lse, p = compute_forward(q, k, v, given, keep=True)
        ctx.save_for_backward(q, k, v, o, lse, p, *given[:TENSORS])
        ctx.options = given[TENSORS:]
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse, p, *tensors = ctx.saved_tensors
        mask_gradient, wants_sinks = ctx.needs_input_grad[3:5]
        do = laid_out(do)
        # Gradients are recorded with create_graph=True. The operator then refuses a second derivative.
        if torch.is_grad_enabled() or _is_watched(do, q, k, v, *tensors):
            dq, dk, dv, dmask, dsinks = ops.attention_backward(
                do, q, k, v, o, lse, ops.or_empty(p, lse), mask_gradient, *tensors, *ctx.options
            )
        else:
            given = Options(*tensors, *ctx.options)
            dq, dk, dv, dmask, dsinks = compute_backward(
                do, q, k, v, o, lse, p, given, mask_gradient=mask_gradient
            )
        return dq, dk, dv, dmask if mask_gradient else None, dsinks if wants_sinks else None, None
