"""Scores that are summed over layers, without an array of scores.

q1 k1^T + q2 k2^T = [q1, q2] [k1, k2]^T: concatenate the queries and keys of all layers so far along head_dim,
and their product is the sum of the layers' scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class ResidualScores(NamedTuple):
    """The scores scale q k^T + mask of all layers so far. q, k: (batch, heads, length, sum of head_dim)."""

    q: Tensor
    k: Tensor
    scale: float
    mask: Tensor | None  # bool (True = may attend), or added to the scores

    @property
    def head_dim(self) -> int:
        return int(self.q.shape[3])

    @classmethod
    def of(
        cls,
        module: Any,
        q: Tensor,
        k: Tensor,
        before: ResidualScores | None,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> ResidualScores:
        """The scores of this layer plus those before it. In the original's masks, True hides a key."""
        if module.scale.requires_grad:
            q, scale = q * module.scale, 1.0
        else:
            scale = module.scale.item()
        mask = None if before is None else before.mask
        if attn_mask is not None:
            mask = _joined(mask, ~attn_mask if attn_mask.dtype is torch.bool else attn_mask)
        if key_padding_mask is not None:
            mask = _joined(mask, ~key_padding_mask[:, None, None])
        if before is None:
            return cls(q, k, scale, mask)
        if scale != before.scale:
            q = q * (scale / before.scale)
        return cls(_side_by_side(before.q, q), _side_by_side(before.k, k), before.scale, mask)

    def tensor(self) -> Tensor:
        """The scores themselves, differentiable."""
        scores = torch.matmul(self.q, self.k.transpose(2, 3)) * self.scale
        if self.mask is None:
            return scores
        if self.mask.dtype is torch.bool:
            return scores.masked_fill(~self.mask, float("-inf"))
        return scores + self.mask


def _side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate along head_dim, in the memory order (batch, length, heads, head_dim) of linear layers.

    o then has that order too.
    """
    return torch.cat((a.transpose(1, 2), b.transpose(1, 2)), dim=3).transpose(1, 2)


def _joined(a: Tensor | None, b: Tensor) -> Tensor:
    """One mask with the effect of both."""
    if a is None:
        return b
    if a.dtype is torch.bool and b.dtype is torch.bool:
        return a & b
    return _as_added(a) + _as_added(b)


def _as_added(mask: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
