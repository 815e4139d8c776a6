"""The attention settings of a model. Its `with_...` methods return changed copies."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashbench.arguments import as_count, as_flag
from flashbench.modules.multi_head import AttentionMode, MultiHeadAttentionConfig


@dataclass(frozen=True)
class ModelConfig:
    """The attention of a model. Raises AttentionError if a setting breaks a rule.

    use_flash_attention: False means standard attention.
    flash_block_size: queries and keys per tile; None: chosen for each problem.
    flash_causal: a query sees no later key, in standard attention too.

    >>> config = ModelConfig().with_flash_block_size(128).with_flash_causal(True)
    >>> config
    ModelConfig(use_flash_attention=True, flash_block_size=128, flash_causal=True)
    >>> config.with_flash_attention(False).attention_config(d_model=64, num_heads=4).mode
    <AttentionMode.STANDARD: 'standard'>
    """

    use_flash_attention: bool = True
    flash_block_size: int | None = 64
    flash_causal: bool = False

    def __post_init__(self) -> None:
        as_flag("use_flash_attention", self.use_flash_attention)
        as_count("flash_block_size", self.flash_block_size)
        as_flag("flash_causal", self.flash_causal)

    def with_flash_attention(self, enabled: bool) -> ModelConfig:
        """A copy that uses flash attention, or standard attention if False."""
        return replace(self, use_flash_attention=enabled)

    def with_flash_block_size(self, block_size: int | None) -> ModelConfig:
        """A copy with another tile size; None: chosen for each problem."""
        return replace(self, flash_block_size=block_size)

    def with_flash_causal(self, causal: bool) -> ModelConfig:
        """A copy in which a query sees no later key (True) or all keys (False), in standard attention too."""
        return replace(self, flash_causal=causal)

    def attention_config(self, d_model: int, num_heads: int) -> MultiHeadAttentionConfig:
        """The settings of one attention layer of this model. Raises AttentionError."""
        return MultiHeadAttentionConfig(
            d_model=d_model,
            num_heads=num_heads,
            mode=AttentionMode.FLASH if self.use_flash_attention else AttentionMode.STANDARD,
            flash_block_size=self.flash_block_size,
            causal=self.flash_causal,
        )
