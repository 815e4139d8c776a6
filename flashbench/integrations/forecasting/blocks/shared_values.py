"""TFT's attention: all heads share the same values, and their outputs are averaged."""

from __future__ import annotations

from typing import Any

from neuralforecast.models.tft import InterpretableMultiHeadAttention
from torch import Tensor

from flashbench.integrations.forecasting.blocks.replacement import Replacement
from flashbench.integrations.forecasting.blocks.weights import AttentionWeights
from flashbench.integrations.forecasting.choice import Choice


class SharedValues(Replacement, InterpretableMultiHeadAttention):
    """Lim et al. 2021, "Temporal Fusion Transformers", section 4.4. Causal, as in the original.

    x: (batch, length, hidden size).
    """

    original = InterpretableMultiHeadAttention
    original_forward = InterpretableMultiHeadAttention.forward

    @classmethod
    def compute(
        cls, module: Any, choice: Choice, x: Tensor, mask_future_timesteps: bool = True
    ) -> tuple[Tensor, AttentionWeights]:
        batch, length, _ = x.shape
        heads, size = module.n_head, module.d_head
        q, k, v = module.qkv_linears(x).split((heads * size, heads * size, size), dim=-1)
        q = q.view(batch, length, heads, size).transpose(1, 2)
        k = k.view(batch, length, heads, size).transpose(1, 2)
        v = v.view(batch, 1, length, size).expand(-1, heads, -1, -1)
        dropout = module.attn_dropout.p if module.training else 0.0
        o = choice(q, k, v, dropout_p=dropout, is_causal=mask_future_timesteps, scale=module.scale)
        o = module.out_dropout(module.out_proj(o.mean(dim=1)))
        return o, AttentionWeights(q, k, module.scale, causal=mask_future_timesteps)
