"""The attention function that transformers calls, computed by flashbench."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from flashbench.dtypes import NARROWEST_FIRST, listed
from flashbench.errors import UnsupportedError
from flashbench.integrations.huggingface.given_masks import only, pattern_of, with_bias
from flashbench.integrations.huggingface.lazy_masks import LazyMask
from flashbench.integrations.huggingface.patterns import Pattern, band_pattern, in_band
from flashbench.integrations.torch import attention, eager
from flashbench.integrations.torch.arrays import ACCUMULATORS
from flashbench.integrations.torch.autocast import autocast
from flashbench.integrations.torch.direct import sdpa_at
from flashbench.integrations.torch.sdpa_arguments import why_not
from flashbench.integrations.torch.statistics import fell_back


def attention_forward(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sinks: Tensor | None = None,
    indices: Tensor | None = None,
    block_indices: Tensor | None = None,
    *,
    engine: str = "flash",
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """o as (batch, queries, heads, head_dim_v), and None for the attention weights.

    If there is a mask, it alone decides which keys a query sees, as in transformers' eager functions.
    Otherwise `is_causal` (or the module's attribute of that name) and `sliding_window` decide. Dropout
    applies only in training.

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim).
        value: (batch, kv_heads, keys, head_dim_v).
        attention_mask: broadcastable to (batch, heads, queries, keys), bool or added to the scores.
        s_aux: one sink per head.
        sinks: one sink per query; such a call goes to the model's eager function.
        indices: (batch, queries, few): the keys that each query sees, for models whose kernels hide the rest.

    Raises:
        UnsupportedError: block_indices is given, or the model has no eager function that a call needs.
    """
    if block_indices is not None:
        raise UnsupportedError(
            f"{type(module).__name__} says by block_indices which keys are seen, and flashbench does not know"
            " what they mean",
            hint="load the model with attn_implementation='eager'",
        )
    if kwargs.get("output_attentions"):
        _warn_of_weights()
    if isinstance(scaling, Tensor):  # some models learn it
        query, scaling = query * scaling, 1.0
    dropout = dropout if module.training else 0.0
    usual = position_bias is softcap is s_aux is sinks is indices is None and not dropout
    if usual and engine == "flash" and query.shape[2] == 1:
        found = _one_query(query, key, value, attention_mask, scaling)
        if found is not None:
            return found.transpose(1, 2).contiguous(), None
    causal = attention_mask is None and query.shape[2] > 1 and _causal(module, is_causal)
    if indices is not None:
        band = _band(causal, sliding_window)
        attention_mask, causal = only(indices, attention_mask, key.shape[2], band), False
    query, key, value = autocast(query, key, value)
    reason = why_not(query, key, value, None, dropout, False, None, True)
    if sinks is not None:
        kwargs["sinks"] = sinks
        reason = reason or "sinks that differ by query"
    if reason is not None:
        kwargs |= {"position_bias": position_bias, "dropout": dropout, "scaling": scaling}
        o = _left_to_transformers(
            module, query, key, value, attention_mask, causal, sliding_window, softcap, s_aux, kwargs
        )
        fell_back(reason)
        return o, None
    keys = key.shape[2]
    if attention_mask is None:
        pattern = _without_mask(query.shape[2], keys, causal, sliding_window)
    else:
        pattern = pattern_of(attention_mask, query, keys)
    mask = pattern.mask if position_bias is None else with_bias(pattern, position_bias)
    if pattern.keys < keys:
        key, value = key[:, :, : pattern.keys], value[:, :, : pattern.keys]
    o = attention(
        query,
        key,
        value,
        softmax_scale=scaling,
        causal=pattern.causal,
        window=pattern.window,
        softcap=softcap,
        mask=mask,
        sinks=None if s_aux is None else s_aux.reshape(-1).to(ACCUMULATORS[query.dtype]),
        dropout=dropout,
        engine=engine,
    )
    return o.transpose(1, 2).contiguous(), None


def _one_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor | None:
    """o of a step of decoding whose query sees one range of the keys; None: the call must go another way.

    Between two layers the weights empty the caches, also of Python's code. So the other way takes longer than
    the attention to a thousand keys.
    """
    if not eager.only_computes(query, key, value):
        return None
    if mask is not None:
        pattern = mask.pattern() if type(mask) is LazyMask else None
        if pattern is None or pattern.mask is not None or pattern.window[1] is not None:
            return None
        if mask.shape != (query.shape[0], 1, 1, key.shape[2]):
            return None
        left, end = pattern.window[0], pattern.keys
        first = 0 if left is None else max(0, end - 1 - left)
        key, value = key[:, :, first:end], value[:, :, first:end]
    return sdpa_at(query, key, value, False, scaling, True, None, None)


def _causal(module: Module, is_causal: bool | None) -> bool:
    return bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal


def _without_mask(queries: int, keys: int, causal: bool, sliding_window: int | None) -> Pattern:
    return band_pattern(queries, keys, *_band(causal, sliding_window)) or Pattern(keys)


def _band(causal: bool, sliding_window: int | None) -> tuple[int | None, int | None]:
    """(low, high) limits of key - query.

    The first query is at the first key, as in transformers' `sdpa`. Keys beyond the number of queries are
    room for later tokens.
    """
    if not causal:
        return None, None
    return None if sliding_window is None else 1 - sliding_window, 0


def _left_to_transformers(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    sliding_window: int | None,
    softcap: float | None,
    s_aux: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """o from transformers' `sdpa`, or from the model's own eager function if `sdpa` lacks a feature."""
    forward = sdpa_attention_forward
    if softcap is not None or s_aux is not None or "sinks" in kwargs:
        forward = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if forward is None:
            raise UnsupportedError(
                f"{type(module).__name__} has softcap or sinks, and no eager_attention_forward to compute"
                f" them in {str(query.dtype).removeprefix('torch.')}",
                hint=f"use {listed(NARROWEST_FIRST, 'or')}, and one sink for each head",
            )
        kwargs |= {"softcap": softcap, "s_aux": s_aux}
    eager = forward is not sdpa_attention_forward
    if is_causal and (eager or sliding_window is not None):
        band = in_band(query.shape[2], key.shape[2], *_band(is_causal, sliding_window), query.device)
        mask, is_causal = None if band is None else band[None, None], False
    if eager and mask is not None and mask.dtype is torch.bool:  # eager functions add the mask
        zero = torch.zeros((), dtype=query.dtype, device=query.device)
        mask = torch.where(mask, zero, torch.finfo(query.dtype).min)
    o: Tensor = forward(
        module, query, key, value, mask, is_causal=is_causal, sliding_window=sliding_window, **kwargs
    )[0]
    return o


@functools.cache
def _warn_of_weights() -> None:
    warnings.warn(
        "flashbench computes no attention weights, so output_attentions=True gives None for them;"
        " load the model with attn_implementation='eager' to have them",
        stacklevel=4,
    )
