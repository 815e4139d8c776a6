"""Checks and recognises the masks that models pass to attention, and adds a position bias to them."""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.huggingface.lazy_masks import LazyMask, is_watched
from flashbench.integrations.huggingface.patterns import Pattern, hidden_by_infinity, in_band, recognise
from flashbench.integrations.torch.arrays import ACCUMULATORS


def pattern_of(mask: Tensor, query: Tensor, keys: int) -> Pattern:
    """The pattern of a mask, bool (True = may attend) or added to the scores.

    query: (batch, heads, queries, head_dim). Raises AttentionError if the mask does not broadcast to
    (batch, heads, queries, keys).
    """
    if is_watched() or mask.requires_grad:  # the mask's present numbers must not decide anything
        mask = _in_four_dimensions(mask, query, keys)
        return Pattern(keys, mask=mask if mask.dtype is torch.bool else hidden_by_infinity(mask))
    if isinstance(mask, LazyMask):
        lazy = mask.pattern()
        if lazy is not None:
            _check(mask, query, keys)
            return lazy
        mask = mask.whole()
    return recognise(_in_four_dimensions(mask, query, keys), query.shape[2])


def only(
    indices: Tensor, mask: Tensor | None, keys: int, band: tuple[int | None, int | None] = (None, None)
) -> Tensor:
    """The mask, or the band if there is no mask, with only the keys of `indices` left visible.

    indices: (batch, queries, few). band: (low, high) limits of key - query. Returns
    (batch, 1 or heads, queries, keys).
    """
    chosen = indices.new_zeros((*indices.shape[:2], keys), dtype=torch.bool)
    chosen = chosen.scatter(-1, indices.long(), True)[:, None]
    if mask is None:
        inside = in_band(indices.shape[1], keys, *band, indices.device)
        return chosen if inside is None else chosen & inside
    if mask.dtype is torch.bool:
        return mask & chosen
    return mask.masked_fill(~chosen, torch.finfo(mask.dtype).min)


def with_bias(pattern: Pattern, bias: Tensor) -> Tensor:
    """The bias and the pattern's mask as one mask that is added to the scores; hidden keys are -inf."""
    bias = bias[..., : pattern.keys] if bias.shape[-1] != 1 else bias
    mask = pattern.mask
    if mask is None:
        joined = bias
    elif mask.dtype is torch.bool:
        joined = torch.where(mask, bias, float("-inf"))
    else:
        joined = mask + bias
    return hidden_by_infinity(joined)


def _in_four_dimensions(mask: Tensor, query: Tensor, keys: int) -> Tensor:
    """A 4-D view of the mask. An added mask keeps query's dtype or its accumulator, another is converted."""
    shape = _check(mask, query, keys)
    mask = mask.view(shape)
    if mask.dtype not in (torch.bool, query.dtype):
        mask = mask.to(ACCUMULATORS[query.dtype])
    return mask.expand(-1, -1, -1, keys)


def _check(mask: Tensor, query: Tensor, keys: int) -> tuple[int, ...]:
    """The mask's shape in four dimensions. Raises AttentionError if it does not fit."""
    full = (*query.shape[:3], keys)
    shape: tuple[int, ...] = (1,) * (4 - mask.dim()) + tuple(mask.shape)
    # Compare sizes one by one: compilers cannot evaluate `n in (1, m)` with symbolic sizes.
    if len(shape) != 4 or any(n != 1 and n != m for n, m in zip(shape, full, strict=True)):
        raise AttentionError(
            f"attention_mask must broadcast to (batch, heads, queries, keys), here {full},"
            f" and is of shape {tuple(mask.shape)}"
        )
    return shape
