"""Rotary position embeddings, as `flash_attn.layers.rotary` has them (Su et al. 2021, RoFormer).

Each pair of numbers (x1, x2) of a head is turned by an angle that grows with the position:
(x1 cos - x2 sin, x1 sin + x2 cos). A pair is two neighbours if interleaved (GPT-J), else one number of
each half (GPT-NeoX).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.errors import AttentionError


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """x with its first 2 * cos.shape[1] numbers of each head turned. Differentiable by x.

    Args:
        x: (batch, seqlen, heads, head_dim), or with cu_seqlens (total, heads, head_dim).
        cos, sin: (positions, rotary_dim / 2).
        inplace: change x itself, and return it.
        seqlen_offsets: the position of the first row of all sequences, or of each: (batch,).
        cu_seqlens: (batch + 1,), first row of each sequence and the end of the last.
        max_seqlen: of no effect.

    Raises:
        AttentionError: a position or a number beyond what is there.
    """
    half = cos.shape[-1]
    if 2 * half > x.shape[-1]:
        raise AttentionError(f"rotary_dim must be at most head_dim {x.shape[-1]}, not {2 * half}")
    positions = _positions(x, seqlen_offsets, cu_seqlens)
    if positions.numel() and not torch.compiler.is_compiling() and int(positions.max()) >= len(cos):
        raise AttentionError(
            f"cos and sin must have {int(positions.max()) + 1} positions at least, not {len(cos)}"
        )
    turned = _turned(
        x[..., : 2 * half], cos[positions].unsqueeze(-2), sin[positions].unsqueeze(-2), interleaved
    )
    if inplace:
        x[..., : 2 * half] = turned
        return x
    return torch.cat((turned, x[..., 2 * half :]), -1)


apply_rotary_emb_func = apply_rotary_emb  # its name before flash-attention 2


def apply_rotary_emb_torch(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """`apply_rotary_emb` from position 0 on; cos and sin: (seqlen, n) or (batch, seqlen, n)."""
    half = cos.shape[-1]
    turned = _turned(x[..., : 2 * half], cos.unsqueeze(-2), sin.unsqueeze(-2), interleaved)
    return torch.cat((turned, x[..., 2 * half :]), -1)


def _positions(x: Tensor, offsets: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """(seqlen,), (batch, seqlen) or (total,)."""
    if cu_seqlens is None:
        rows = torch.arange(x.shape[1], device="cpu")
        return rows + (offsets.long()[:, None] if isinstance(offsets, Tensor) else offsets)
    starts = cu_seqlens[:-1].long() - (offsets.long() if isinstance(offsets, Tensor) else offsets)
    return torch.arange(x.shape[0], device="cpu") - torch.repeat_interleave(starts, cu_seqlens.diff().long())


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """All of x turned, in float32 at least, then rounded to x's dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    first, second, cos, sin = (y.to(wide) for y in (first, second, cos, sin))
    parts = first * cos - second * sin, first * sin + second * cos
    return (torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)).to(x.dtype)


def apply_rotary_emb_qkv_(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cos_k: Tensor | None = None,
    sin_k: Tensor | None = None,
    interleaved: bool = False,
    seqlen_offsets: int | Tensor = 0,
    num_heads_q: int | None = None,
) -> Tensor:
    """Turn q and k within qkv, in place.

    qkv: (batch, seqlen, 3, heads, head_dim), or (batch, seqlen, num_heads_q + 2 heads_k, head_dim).
    cos_k, sin_k: for k, if they differ.
    """
    if qkv.dim() == 5:
        q, k = qkv[:, :, 0], qkv[:, :, 1]
    elif num_heads_q is None:
        raise AttentionError("a qkv of 4 dimensions needs num_heads_q, which is None")
    else:
        heads_k = (qkv.shape[2] - num_heads_q) // 2
        q, k = qkv[:, :, :num_heads_q], qkv[:, :, num_heads_q : num_heads_q + heads_k]
    apply_rotary_emb(q, cos, sin, interleaved, True, seqlen_offsets)
    apply_rotary_emb(
        k, cos if cos_k is None else cos_k, sin if sin_k is None else sin_k, interleaved, True, seqlen_offsets
    )
    return qkv


def apply_rotary_emb_kv_(
    kv: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, seqlen_offsets: int | Tensor = 0
) -> Tensor:
    """Turn k within kv (batch, seqlen, 2, heads, head_dim), in place."""
    apply_rotary_emb(kv[:, :, 0], cos, sin, interleaved, True, seqlen_offsets)
    return kv


class RotaryEmbedding(torch.nn.Module):
    """Turns q and k of a layer by angles position / base ** (2 i / dim), with a table that grows as needed.

    scale_base: XPos (Sun et al. 2022): q grows and k shrinks with the position.
    """

    inv_freq: Tensor

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        scale_base: float | None = None,
        pos_idx_in_fp32: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        """dim: numbers of a head that are turned. pos_idx_in_fp32: of no effect, as angles always are."""
        super().__init__()
        self.dim, self.base, self.interleaved, self.scale_base = dim, float(base), interleaved, scale_base
        self.register_buffer("inv_freq", self._frequencies(device), persistent=False)

    def _frequencies(self, device: torch.device | str | None = None) -> Tensor:
        steps = torch.arange(0, self.dim, 2, device=device, dtype=torch.float32)
        return 1.0 / self.base ** (steps / self.dim)

    def _tables(self, seqlen: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """cos and sin for q and for k, (seqlen, dim / 2). Angles are float32, whatever the model's dtype."""
        positions = torch.arange(seqlen, device="cpu", dtype=torch.float32)
        # As it is set, such as for longer contexts. After model.half() it is computed again.
        own = self.inv_freq if self.inv_freq.dtype is torch.float32 else self._frequencies("cpu")
        angles = torch.outer(positions, own)
        cos, sin = angles.cos(), angles.sin()
        if self.scale_base is None:
            return cos.to(dtype), sin.to(dtype), cos.to(dtype), sin.to(dtype)
        base = (torch.arange(0, self.dim, 2, device="cpu") + 0.4 * self.dim) / (1.4 * self.dim)
        power = (positions - seqlen // 2) / self.scale_base
        scale = base ** power[:, None]
        return tuple(x.to(dtype) for x in (cos * scale, sin * scale, cos / scale, sin / scale))

    def forward(
        self,
        qkv: Tensor,
        kv: Tensor | None = None,
        seqlen_offset: int | Tensor = 0,
        max_seqlen: int | None = None,
        num_heads_q: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """qkv turned in place; with kv, q (in the place of qkv) and kv.

        seqlen_offset: position of the first row; for each sequence, then with max_seqlen: the end of the
        longest.
        """
        end = max_seqlen
        if end is None:
            offset = int(seqlen_offset.max()) if isinstance(seqlen_offset, Tensor) else seqlen_offset
            end = qkv.shape[1] + offset
        cos, sin, cos_k, sin_k = self._tables(end, qkv.dtype)
        if kv is None:
            return apply_rotary_emb_qkv_(
                qkv, cos, sin, cos_k, sin_k, self.interleaved, seqlen_offset, num_heads_q
            )
        q = apply_rotary_emb(qkv, cos, sin, self.interleaved, True, seqlen_offset)
        return q, apply_rotary_emb_kv_(kv, cos_k, sin_k, self.interleaved, seqlen_offset)
