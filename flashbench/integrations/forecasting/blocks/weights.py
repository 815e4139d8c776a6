"""Attention's probabilities, computed only when code reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AttentionWeights:
    """Stands for the tensor softmax(scale q k^T + mask), (batch, heads, queries, keys), without dropout.

    It is float32 for q and k of 16 bits, as the original's is under autocast. Any other attribute computes
    the tensor, and returns the tensor's attribute. q and k are detached.
    """

    def __init__(
        self, q: Tensor, k: Tensor, scale: float | Tensor, *, causal: bool = False, mask: Tensor | None = None
    ) -> None:
        self._q, self._k = q.detach(), k.detach()
        self._scale = scale.detach() if isinstance(scale, Tensor) else scale
        self._causal = causal
        self._mask = None if mask is None else mask.detach()

    def tensor(self) -> Tensor:
        """The probabilities: (batch, heads, queries, keys)."""
        dtype = torch.promote_types(self._q.dtype, torch.float32)
        scores = torch.matmul(self._q.to(dtype), self._k.to(dtype).transpose(-2, -1)) * self._scale
        if self._causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores.masked_fill_(hidden, float("-inf"))
        if self._mask is not None and self._mask.dtype is torch.bool:
            scores.masked_fill_(~self._mask, float("-inf"))
        elif self._mask is not None:
            scores += self._mask
        return torch.softmax(scores, dim=-1)

    def size(self, *dim: int) -> Any:
        """The tensor's size, without computing the tensor."""
        shape = (*self._q.shape[:-1], self._k.shape[-2])
        return torch.Size(shape) if not dim else shape[dim[0]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy in the making has no fields yet
            raise AttributeError(name)
        return getattr(self.tensor(), name)
