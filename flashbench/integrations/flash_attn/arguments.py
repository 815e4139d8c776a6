"""Checks flash-attention's arguments and translates them into flashbench's options.

What flash-attention refuses is refused here too, but for what only its GPU kernels need: float32 and float64
are allowed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.torch.arrays import ACCUMULATORS, KNOWN_DTYPES
from flashbench.integrations.torch.options import Options
from flashbench.problem import MAX_HEAD_DIM

PAGE_UNIT = 256  # keys: flash-attention's pages are multiples of it


class Attention(NamedTuple):
    """The arguments that all functions share, as callers give them."""

    dropout_p: float = 0.0
    softmax_scale: float | None = None
    causal: bool = False
    window_size: tuple[int | None, int | None] = (-1, -1)  # None: no limit, as in flash-attention 4
    softcap: float | None = 0.0
    alibi_slopes: Tensor | None = None
    learnable_sink: Tensor | None = None

    def options(self) -> Options:
        """The same for `flashbench.attention`. Raises AttentionError.

        With dropout the seed comes from PyTorch's generator.
        """
        softcap = self.softcap if self.softcap is not None and self.softcap > 0 else None
        if softcap is not None and self.dropout_p > 0:
            raise AttentionError(
                f"softcap does not go with dropout_p: they are {softcap} and {self.dropout_p}",
                hint="flash-attention refuses this too",
            )
        left, right = self._sides()
        return Options(
            alibi_slopes=self.alibi_slopes,
            sinks=self.learnable_sink,
            dropout_seed=torch.randint(2**63 - 1, (), device="cpu") if self.dropout_p else None,
            softmax_scale=self.softmax_scale,
            causal=bool(self.causal),
            window_left=None if left is None or left < 0 else int(left),
            window_right=None if right is None or right < 0 else int(right),
            softcap=softcap,
            dropout=self.dropout_p,
        )

    def _sides(self) -> tuple[int | None, int | None]:
        try:
            left, right = self.window_size
        except (TypeError, ValueError):
            raise AttentionError(f"window_size must be (left, right), not {self.window_size!r}") from None
        return left, right

    @property
    def local(self) -> bool:
        """Whether queries at different places see different keys."""
        return self.causal or any(size is not None and size >= 0 for size in self.window_size)


def check_tensors(dimensions: int, like: Tensor, /, **tensors: Tensor) -> None:
    """Refuse tensors that are not on the CPU, not of the dtype of `like`, or not of so many dimensions.

    Raises AttentionError.
    """
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise AttentionError(f"{name} must be a tensor, not {type(x).__name__}")
        if x.device.type not in ("cpu", "meta"):
            raise AttentionError(
                f"{name} must be on the CPU, not on {x.device}",
                hint="flashbench is flash_attn for CPUs; on a GPU install flash-attn",
            )
        if x.dtype not in ACCUMULATORS:
            raise AttentionError(f"{name} must be of {KNOWN_DTYPES}, not {x.dtype}")
        if x.dtype is not like.dtype:
            raise AttentionError(f"{name} must have q's dtype {like.dtype}, not {x.dtype}")
        if x.dim() != dimensions:
            raise AttentionError(f"{name} must have {dimensions} dimensions, but has shape {tuple(x.shape)}")


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse heads that cannot be shared and head sizes that are too large. Raises AttentionError.

    The last two axes of each tensor are heads and head_dim.
    """
    for name, x in (("q", q), ("v", v)):
        if x.shape[-1] > MAX_HEAD_DIM:
            raise AttentionError(f"head_dim must be at most {MAX_HEAD_DIM}, but {name} has {x.shape[-1]}")
    if k.shape[-1] != q.shape[-1]:
        raise AttentionError(f"k must have q's head_dim {q.shape[-1]}, not {k.shape[-1]}")
    if v.shape[:-1] != k.shape[:-1]:
        raise AttentionError(
            f"v must have k's shape but for head_dim: {tuple(k.shape)}, not {tuple(v.shape)}"
        )
    heads, kv_heads = q.shape[-2], k.shape[-2]
    if kv_heads == 0 or heads % kv_heads:
        raise AttentionError(f"the heads of k ({kv_heads}) must divide those of q ({heads})")


def check_whole(name: str, x: Tensor, shape: tuple[int | str, ...]) -> None:
    """Refuse a tensor that is not int32 or not of this shape. Words stand for any size.

    Raises AttentionError.
    """
    if x.dtype is not torch.int32:
        raise AttentionError(f"{name} must be of torch.int32, not {x.dtype}")
    fits = x.dim() == len(shape) and all(
        isinstance(n, str) or n == m for n, m in zip(shape, x.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise AttentionError(f"{name} must have shape ({wanted}), not {tuple(x.shape)}")


def check_pages(k: Tensor) -> None:
    """Refuse pages of another size than flash-attention has. Raises AttentionError."""
    if k.shape[1] % PAGE_UNIT:
        raise AttentionError(f"pages must be of a multiple of {PAGE_UNIT} keys, not {k.shape[1]}")


def pages_of(block_table: Tensor, sequences: Tensor, columns: Tensor, count: int) -> Tensor:
    """The pages at these places of a block table, as indices into a pool of `count`.

    Raises AttentionError if a page is not in the pool, or the table is too short.
    """
    if columns.numel() and int(columns.max()) >= block_table.shape[1]:
        needed = int(columns.max()) + 1
        raise AttentionError(f"block_table must have {needed} pages a sequence, not {block_table.shape[1]}")
    pages: Tensor = block_table.long()[sequences, columns]
    if pages.numel() and (int(pages.min()) < 0 or int(pages.max()) >= count):
        wrong = pages[(pages < 0) | (pages >= count)][0]
        raise AttentionError(f"block_table must name pages from 0 to {count - 1}, not {int(wrong)}")
    return pages
