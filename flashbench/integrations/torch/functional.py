"""`attention` on tensors with gradients, and `scaled_dot_product_attention` with PyTorch's meaning."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias
from torch.overrides import has_torch_function_variadic

from flashbench.errors import AttentionError
from flashbench.integrations.torch import eager
from flashbench.integrations.torch.autocast import autocast
from flashbench.integrations.torch.compute import laid_out
from flashbench.integrations.torch.direct import output_at, sdpa_at
from flashbench.integrations.torch.options import Options
from flashbench.integrations.torch.overrides import overridden, overriding, traceable
from flashbench.integrations.torch.place import torch_sdpa
from flashbench.integrations.torch.sdpa_arguments import in_four_dimensions, why_not
from flashbench.integrations.torch.statistics import fell_back
from flashbench.problem import CausalAlignment, Window

_has_mode = torch._C._is_torch_function_mode_enabled


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    window: Window = (None, None),
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    mask: Tensor | None = None,
    sinks: Tensor | None = None,
    key_lengths: Tensor | None = None,
    dropout: float = 0.0,
    dropout_seed: Tensor | None = None,
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
) -> Tensor:
    """`flashbench.attention` on CPU tensors, differentiable by q, k, v, a float mask and sinks.

    It works under `torch.compile(fullgraph=True)`. Autocast applies as to PyTorch's own attention.

    Args:
        q: (batch, num_heads, seqlen_q, head_dim), float64, float32, bfloat16 or float16.
        k: (batch, num_kv_heads, seqlen_k, head_dim).
        v: (batch, num_kv_heads, seqlen_k, head_dim_v).
        dropout_seed: one whole number in a tensor. None draws one from PyTorch's generator, so that
            `torch.manual_seed` decides.

    The other options are those of `flashbench.attention`, with tensors for arrays.

    Returns:
        o: (batch, num_heads, seqlen_q, head_dim_v).

    Raises:
        AttentionError, UnsupportedError, EngineError: as `flashbench.attention`.
    """
    if not q.dim() == k.dim() == v.dim() == 4:
        raise AttentionError(
            "q, k and v must be 4-D (batch, num_heads, seqlen, head_dim), "
            f"not {q.dim()}-D, {k.dim()}-D and {v.dim()}-D"
        )
    if dropout and dropout_seed is None:
        dropout_seed = _new_seed()
    options = Options(
        mask, alibi_slopes, sinks, key_lengths, dropout_seed, None, None, None,
        engine, softmax_scale, causal, causal_alignment, *window, softcap, block_q, block_k, dropout,
    )  # fmt: skip
    # A short call spends most of its time in what follows, so the usual kind of call goes around it.
    if eager.only_computes(q, k, v):
        found = output_at(q, k, v, options)
        if found is not None:
            return found
    q, k, v, mask, alibi_slopes, sinks = autocast(q, k, v, mask, alibi_slopes, sinks)
    options = options._replace(mask=mask, alibi_slopes=alibi_slopes, sinks=sinks)
    return eager.attention(laid_out(q), laid_out(k), laid_out(v), options)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, computed by flashbench.

    Arguments, shapes and meaning are PyTorch's. A call that flashbench cannot compute goes to PyTorch's
    function. Each reason for that is warned of once, and `stats()` counts the calls.

    Args:
        query: (..., seqlen_q, head_dim).
        key: (..., seqlen_k, head_dim).
        value: (..., seqlen_k, head_dim_v).
        attn_mask: broadcastable to (..., seqlen_q, seqlen_k): bool (True = may attend), or query's dtype
            or float32 (added to the scores).
        dropout_p: applies whether or not a model is training.
        is_causal: aligns top-left.
        scale: None is 1 / sqrt(head_dim).
        enable_gqa: query heads share key heads.
        engine: an engine of flashbench.
        block_q, block_k: the engine's tile sizes, as in `flashbench.attention`.
    """
    # While a compiler traces, has_torch_function_variadic does not see modes.
    if has_torch_function_variadic(query, key, value, attn_mask) or _has_mode():
        if torch.compiler.is_dynamo_compiling() and type(attn_mask) is CausalBias and not is_causal:
            attn_mask, is_causal = traceable(attn_mask)
        by = overriding(query, key, value, attn_mask)
        if by is not None:
            compute = functools.partial(
                scaled_dot_product_attention, engine=engine, block_q=block_q, block_k=block_k
            )
            named = _given(attn_mask, dropout_p, is_causal, scale, enable_gqa)
            return overridden(by, compute, query, key, value, **named)
    # As in `attention`: the usual kind of call goes around the rest.
    if attn_mask is None and dropout_p == 0 and engine == "flash" and eager.only_computes(query, key, value):
        found = sdpa_at(query, key, value, is_causal, scale, enable_gqa, block_q, block_k)
        if found is not None:
            return found
    query, key, value, attn_mask = autocast(query, key, value, attn_mask)
    reason = why_not(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if reason is not None:
        o: Tensor = torch_sdpa(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        fell_back(reason)  # after the call: a call that PyTorch refuses does not count
        return o
    q, k, v, mask = in_four_dimensions(query, key, value, attn_mask)
    seed = _new_seed() if dropout_p else None
    options = Options(
        mask, None, None, None, seed, None, None, None,
        engine, scale, is_causal, "top-left", None, None, None, block_q, block_k, dropout_p,
    )  # fmt: skip
    o = eager.attention(laid_out(q), laid_out(k), laid_out(v), options)
    return o if query.dim() == 4 else o.reshape(*query.shape[:-1], value.shape[-1])


def _given(
    attn_mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool
) -> dict[str, Any]:
    """The arguments by name, without PyTorch's defaults: overriding code must not see arguments not given."""
    named: dict[str, Any] = {}
    if attn_mask is not None:
        named["attn_mask"] = attn_mask
    if type(dropout_p) is not float or dropout_p != 0.0:
        named["dropout_p"] = dropout_p
    if is_causal is not False:
        named["is_causal"] = is_causal
    if scale is not None:
        named["scale"] = scale
    if enable_gqa is not False:
        named["enable_gqa"] = enable_gqa
    return named


def _new_seed() -> Tensor:
    """A seed from PyTorch's generator, by an operation that compilers record."""
    return torch.randint(2**63 - 1, (), device="cpu")  # the default device may be another
