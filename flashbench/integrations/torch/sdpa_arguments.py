"""Arguments of `scaled_dot_product_attention`: can flashbench compute them, and as which 4-D tensors?"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from flashbench.integrations.torch.arrays import ACCUMULATORS
from flashbench.problem import MAX_HEAD_DIM

# PyTorch's function most likely raises its own error for these.
ODD = "arguments of other kinds or shapes than flashbench knows"


def why_not(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> str | None:
    """Why PyTorch must compute this call, in one line; None if flashbench can."""
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    for x in tensors:
        if not isinstance(x, Tensor):
            return ODD
    return (
        _kind_reason(tensors)
        or _shape_reason(query, key, value, enable_gqa)
        or _mask_reason(query, key, attn_mask, is_causal)
        or _number_reason(dropout_p, is_causal, scale, enable_gqa)
        or _transform_reason()
    )


def in_four_dimensions(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """q, k and v as (batch, heads, seqlen, head_dim), from tensors of two dimensions or more, and the mask.

    With three dimensions, the first is heads. With five or more, all but the last three become one batch.
    """
    mask = attn_mask
    if mask is not None and mask.dtype not in (torch.bool, query.dtype):
        mask = mask.to(ACCUMULATORS[query.dtype])
    if query.dim() > 4:
        if mask is not None and mask.dim() > 3:
            mask = mask.expand(*query.shape[:-3], *mask.shape[-3:]).flatten(0, -4)
        query, key, value = (x.flatten(0, -4) for x in (query, key, value))
    while query.dim() < 4:
        query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
    return query, key, value, mask


def _kind_reason(tensors: tuple[Tensor, ...]) -> str | None:
    query, key, value = tensors[:3]
    for x in tensors:
        if not x.is_cpu:
            return f"tensors on {x.device.type}; flashbench computes on CPUs"
        if x.is_nested or x.layout is not torch.strided:
            return "tensors that are nested or sparse"
        if type(x) is not Tensor and type(x) is not Parameter and not torch.compiler.is_compiling():
            return f"tensors of type {type(x).__name__}"
    dtype = query.dtype
    same = key.dtype is dtype and value.dtype is dtype
    return None if same and dtype in ACCUMULATORS else ODD


def _shape_reason(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> str | None:
    q, k, v = query.shape, key.shape, value.shape
    if not len(q) == len(k) == len(v) >= 2:
        return ODD
    if q[-1] != k[-1] or k[-2] != v[-2]:
        return ODD
    if 0 in q or 0 in k or 0 in v:
        return "tensors without numbers"
    if q[-1] > MAX_HEAD_DIM or v[-1] > MAX_HEAD_DIM:
        return f"head_dim above {MAX_HEAD_DIM}"
    if not enable_gqa:
        same = q[:-2] == k[:-2] == v[:-2]
    elif len(q) < 3 or q[-3] % k[-3] or k[-3] != v[-3]:
        return "key heads that are shared in ways of PyTorch's own"
    else:
        same = q[:-3] == k[:-3] == v[:-3]
    return None if same else "batches or heads that are broadcast"


def _mask_reason(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> str | None:
    if mask is None:
        return None
    full = (*query.shape[:-1], key.shape[-2])
    if is_causal or not 2 <= mask.dim() <= len(full):
        return ODD
    for n, most in zip(reversed(mask.shape), reversed(full), strict=False):
        if n != 1 and n != most:  # not `n in (1, most)`: compilers cannot do that with symbolic sizes
            return ODD
    return None if mask.dtype in (torch.bool, query.dtype, torch.float32) else ODD


def _number_reason(dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool) -> str | None:
    if type(is_causal) is not bool or type(enable_gqa) is not bool:
        return ODD
    if scale is not None:
        if not isinstance(scale, (float, int)):
            return ODD
        if not -math.inf < scale < math.inf:
            return "a scale that is not finite"
    if not isinstance(dropout_p, (float, int)) or not 0.0 <= dropout_p <= 1.0:
        return ODD
    return "dropout_p of 1" if dropout_p == 1.0 else None


@torch.compiler.assume_constant_result  # a compiler calls it while it traces, within the same transforms
def _transform_reason() -> str | None:
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transforms of torch.func"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    return None
