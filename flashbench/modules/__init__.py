"""Attention as classes: `FlashAttention`, `MultiHeadAttention`, and `ModelConfig`, which chooses between
flash and standard attention.

Each object keeps its last forward for `backward`, so every thread needs its own object.
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
