"""Attention by its formula, in PyTorch, with autograd's gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    bias: Tensor | None = None,
    softcap: float = 0.0,
    kept: Tensor | None = None,
    dropout: float = 0.0,
    *,
    wide: bool = True,
) -> tuple[Tensor, Tensor]:
    """o (batch, seqlen, heads, head_dim) and the probabilities by the formula. visible: broadcasts to them.

    wide: in float32; else in the inputs' dtype, with k scaled and not q, as another order of operations.
    """
    dtype = q.dtype
    if wide:
        q, k, v = q.float(), k.float(), v.float()
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
    scale = 1 / math.sqrt(q.shape[-1])
    pair = (q * scale, k) if wide else (q, k * scale)
    s = torch.einsum("bqhd,bkhd->bhqk", *pair)
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    if bias is not None:
        s = s + bias.to(s.dtype)
    p = torch.softmax(s.masked_fill(~visible, -math.inf), -1).masked_fill(~visible, 0.0)
    p = p.masked_fill(~visible.any(-1, keepdim=True), 0.0)
    dropped = p if kept is None else p.masked_fill(~kept, 0.0)
    o = torch.einsum("bhqk,bkhd->bqhd", dropped, v / (1 - dropout))
    return o.to(dtype), p.to(dtype)


def visible_pairs(
    rows: Tensor, keys: Tensor, seqlen_q: int, seqlen_k: int, window: tuple[int, int], causal: bool
) -> Tensor:
    """(batch, 1, seqlen_q, seqlen_k). rows, keys: lengths of the sequences, (batch,)."""
    left, right = window[0], 0 if causal else window[1]
    i, j = torch.arange(seqlen_q)[:, None], torch.arange(seqlen_k)
    rows, keys = rows[:, None, None], keys[:, None, None]
    place = i + keys - rows
    found = (j < keys) & (i < rows)
    if left >= 0:
        found &= j >= place - left
    if right >= 0:
        found &= j <= place + right
    return found[:, None]


def alibi_bias(
    slopes: Tensor | None, rows: Tensor, keys: Tensor, seqlen_q: int, seqlen_k: int
) -> Tensor | None:
    """ALiBi's, (batch, heads, seqlen_q, seqlen_k). slopes: (batch, heads). rows, keys: as `visible_pairs`."""
    if slopes is None:
        return None
    i, j = torch.arange(seqlen_q)[:, None], torch.arange(seqlen_k)
    distance = (i + (keys - rows)[:, None, None] - j).abs()
    return -slopes[:, :, None, None] * distance[:, None]
