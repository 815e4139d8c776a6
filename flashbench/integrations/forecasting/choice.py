"""The attention of a layer, as data that a module keeps through copies and pickles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashbench.arguments import as_count
from flashbench.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

ORIGINAL = "original"  # neuralforecast's own computation
VARIANT = "full-attention"  # softmax attention in place of another kind of block
OURS = ("flash", "standard")


@dataclass(frozen=True)
class Choice:
    """Call it like torch.nn.functional.scaled_dot_product_attention.

    Raises EngineError for an unknown attention, UnsupportedError for a block_size without flash attention,
    AttentionError for a block_size below 1.
    """

    attention: str = "flash"
    block_size: int | None = None  # size of flash attention's tiles; None: chosen for each problem

    def __post_init__(self) -> None:
        as_count("block_size", self.block_size)
        if self.attention != ORIGINAL:
            from flashbench.integrations.torch import find_attention

            find_attention(self.attention)
        if self.block_size is not None and self.attention != "flash":
            raise UnsupportedError(f"block_size is for attention 'flash', not for {self.attention!r}")

    @property
    def is_ours(self) -> bool:
        """Whether flashbench computes it, and so its limits apply."""
        return self.attention in OURS

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        from torch.nn.functional import pad

        from flashbench.integrations.torch import find_attention

        attention = find_attention(self.attention)
        if self.block_size is not None:
            options |= {"block_q": self.block_size, "block_k": self.block_size}
        head_dim, head_dim_v = q.shape[-1], v.shape[-1]
        if self.attention == "torch-flash" and head_dim_v < head_dim:
            # PyTorch's flash kernel needs head_dim_v = head_dim. Otherwise PyTorch takes its slow kernel.
            o = attention(q, k, pad(v, (0, head_dim - head_dim_v)), **options)
            return o[..., :head_dim_v]
        return attention(q, k, v, **options)
