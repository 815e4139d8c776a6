"""PatchTST's attention. A layer may add its scores to the scores of the layers before it."""

from __future__ import annotations

from typing import Any

from neuralforecast.models.patchtst import _ScaledDotProductAttention
from torch import Tensor

from flashbench.integrations.forecasting.blocks.replacement import Replacement
from flashbench.integrations.forecasting.blocks.residual_scores import ResidualScores
from flashbench.integrations.forecasting.blocks.weights import AttentionWeights
from flashbench.integrations.forecasting.choice import Choice
from flashbench.integrations.torch.statistics import fell_back
from flashbench.problem import MAX_HEAD_DIM


class PatchAttention(Replacement, _ScaledDotProductAttention):
    """Nie et al. 2023, "A Time Series is Worth 64 Words". q, v: (batch, heads, length, head_dim);
    k: (batch, heads, head_dim, length).
    """

    original = _ScaledDotProductAttention
    original_forward = _ScaledDotProductAttention.forward

    @classmethod
    def compute(
        cls,
        module: Any,
        choice: Choice,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prev: ResidualScores | Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> tuple[Any, ...]:
        if module.res_attention:
            return cls._with_scores_before(module, choice, q, k, v, prev, key_padding_mask, attn_mask)
        # As in the original: a bool mask is True where a query may attend, the padding mask is ignored, and
        # dropout applies also when the model is not training.
        o = choice(q, k.transpose(2, 3), v, attn_mask=attn_mask, dropout_p=module.attn_dropout.p)
        return o, None

    @classmethod
    def _with_scores_before(
        cls,
        module: Any,
        choice: Choice,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        prev: ResidualScores | Tensor | None,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> tuple[Any, ...]:
        before = prev.head_dim if isinstance(prev, ResidualScores) else 0
        if isinstance(prev, Tensor) or (choice.is_ours and before + q.shape[3] > MAX_HEAD_DIM):
            if choice.is_ours:
                fell_back(f"scores of layers whose head_dim adds up to more than {MAX_HEAD_DIM}")
            found: tuple[Any, ...] = cls.original_forward(
                module,
                q,
                k,
                v,
                prev.tensor() if isinstance(prev, ResidualScores) else prev,
                key_padding_mask,
                attn_mask,
            )
            return found
        scores = ResidualScores.of(module, q, k.transpose(2, 3), prev, key_padding_mask, attn_mask)
        o = choice(
            scores.q,
            scores.k,
            v,
            attn_mask=scores.mask,
            dropout_p=module.attn_dropout.p if module.training else 0.0,
            scale=scores.scale,
        )
        weights = AttentionWeights(scores.q, scores.k, scores.scale, mask=scores.mask)
        return o, weights, scores
