"""The softmax attention of iTransformer and of other neuralforecast transformers."""

from __future__ import annotations

import math
from typing import Any

from neuralforecast.common import _modules
from torch import Tensor

from flashbench.integrations.forecasting.blocks.replacement import Replacement, attend_by_rows
from flashbench.integrations.forecasting.choice import Choice


class FullAttention(Replacement, _modules.FullAttention):
    """Input and output are (batch, length, heads, head_dim). With output_attention the original computes."""

    original = _modules.FullAttention
    original_forward = _modules.FullAttention.forward

    @classmethod
    def compute(
        cls,
        module: Any,
        choice: Choice,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attn_mask: Any,
        tau: Any = None,
        delta: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        if module.output_attention:
            result: tuple[Tensor, Tensor] = cls.original_forward(
                module, queries, keys, values, attn_mask, tau, delta
            )
            return result
        o = attend_by_rows(
            choice,
            queries,
            keys,
            values,
            attn_mask=attn_mask.mask[:, 0] if module.mask_flag and attn_mask else None,
            dropout_p=module.dropout.p if module.training else 0.0,
            scale=module.scale or 1.0 / math.sqrt(queries.shape[-1]),
        )
        return o, None
