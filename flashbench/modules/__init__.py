"""Attention as classes: `FlashAttention`, `MultiHeadAttention`, and the `ModelConfig` that chooses.

Each object remembers its last forward for `backward`, so give every thread its own.
"""

from __future__ import annotations

from flashbench.modules.flash_attention import FlashAttention, FlashAttentionConfig
from flashbench.modules.model_config import ModelConfig
from flashbench.modules.multi_head import (
    AttentionMode,
    MemoryUsage,
    MultiHeadAttention,
    MultiHeadAttentionConfig,
    MultiHeadGradients,
    ProjectionWeights,
)

__all__ = [
    "AttentionMode",
    "FlashAttention",
    "FlashAttentionConfig",
    "MemoryUsage",
    "ModelConfig",
    "MultiHeadAttention",
    "MultiHeadAttentionConfig",
    "MultiHeadGradients",
    "ProjectionWeights",
]
