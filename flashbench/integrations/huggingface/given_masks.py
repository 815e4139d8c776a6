"""Masks as models hand them to attention: checked, recognised, joined with a position bias."""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.huggingface.lazy_masks import LazyMask, is_watched
from flashbench.integrations.huggingface.patterns import Pattern, hidden_by_infinity, in_band, recognise


def pattern_of(mask: Tensor, query: Tensor, keys: int) -> Pattern:
    """The pattern of a mask, bool (True may attend) or added.

    Raises AttentionError where the mask does not fit.
    """
    if is_watched() or mask.requires_grad:  # its numbers are not to be looked at
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
    """The mask, or where there is none the band, with all keys hidden but those of the indices.

    indices: (batch, queries, few). Returns (batch, 1 or heads, queries, keys).
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
    """The bias, added to the scores, with -inf or more added where the pattern's mask says so."""
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
    """A view of the mask, in query's dtype if it is added."""
    shape = _check(mask, query, keys)
    mask = mask.view(shape)
    if mask.dtype is not torch.bool:
        mask = mask.to(query.dtype)
    return mask.expand(-1, -1, -1, keys)


def _check(mask: Tensor, query: Tensor, keys: int) -> tuple[int, ...]:
    """Its shape in four dimensions."""
    full = (*query.shape[:3], keys)
    shape: tuple[int, ...] = (1,) * (4 - mask.dim()) + tuple(mask.shape)
    # Sizes that compilers know by name alone have an order, and are in no tuple.
    if len(shape) != 4 or any(n != 1 and n != m for n, m in zip(shape, full, strict=True)):
        raise AttentionError(
            f"attention_mask must broadcast to (batch, heads, queries, keys), here {full},"
            f" and is of shape {tuple(mask.shape)}"
        )
    return shape
