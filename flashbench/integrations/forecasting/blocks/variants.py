"""Full attention in the place of blocks that are something else: what their papers compare them with.

Each takes and gives what the block does, (batch, length, heads, head_dim), and sees every key; parameters of
the block itself, which FEDformer's have, are kept and not used. The original blocks of Informer and FEDformer
give (batch, heads, ...) to a layer that reads (batch, length, ...); here heads stay with their positions.
"""

from __future__ import annotations

import math
from typing import Any

from neuralforecast.models.autoformer import AutoCorrelation
from neuralforecast.models.fedformer import FourierBlock, FourierCrossAttention
from neuralforecast.models.informer import ProbAttention
from torch import Tensor

from flashbench.integrations.forecasting.blocks.replacement import Replacement
from flashbench.integrations.forecasting.blocks.weights import AttentionWeights
from flashbench.integrations.forecasting.choice import Choice


class InsteadOfProbSparse(Replacement, ProbAttention):
    """Zhou et al. 2021, "Informer": canonical self-attention, causal where the block's mask_flag says so."""

    original = ProbAttention
    original_forward = ProbAttention.forward
    instead_of = "ProbSparse"

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
    ) -> tuple[Tensor, AttentionWeights | None]:
        return _masked(module, choice, queries, keys, values)


class InsteadOfAutoCorrelation(Replacement, AutoCorrelation):
    """Wu et al. 2021, "Autoformer": full attention, causal where the block's mask_flag says so."""

    original = AutoCorrelation
    original_forward = AutoCorrelation.forward
    instead_of = "auto-correlation"

    @classmethod
    def compute(
        cls, module: Any, choice: Choice, queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Any
    ) -> tuple[Tensor, AttentionWeights | None]:
        return _masked(module, choice, queries, keys, values)


class InsteadOfFourierBlock(Replacement, FourierBlock):
    """Zhou et al. 2022, "FEDformer": self-attention that sees every key, as the block does."""

    original = FourierBlock
    original_forward = FourierBlock.forward
    instead_of = "a Fourier block"

    @classmethod
    def compute(
        cls, module: Any, choice: Choice, q: Tensor, k: Tensor, v: Tensor, mask: Any
    ) -> tuple[Tensor, None]:
        return _attend(choice, q, k, v), None


class InsteadOfFourierCrossAttention(Replacement, FourierCrossAttention):
    """Zhou et al. 2022, "FEDformer": attention to the encoder's output."""

    original = FourierCrossAttention
    original_forward = FourierCrossAttention.forward
    instead_of = "a Fourier block"

    @classmethod
    def compute(
        cls, module: Any, choice: Choice, q: Tensor, k: Tensor, v: Tensor, mask: Any
    ) -> tuple[Tensor, None]:
        return _attend(choice, q, k, v), None


def _masked(
    module: Any, choice: Choice, queries: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, AttentionWeights | None]:
    scale = module.scale or 1.0 / math.sqrt(queries.shape[-1])
    o = _attend(
        choice,
        queries,
        keys,
        values,
        dropout_p=module.dropout.p if module.training else 0.0,
        is_causal=module.mask_flag,
        scale=scale,
    )
    if not module.output_attention:
        return o, None
    q, k = queries.transpose(1, 2), keys.transpose(1, 2)
    return o, AttentionWeights(q, k, scale, causal=module.mask_flag)


def _attend(choice: Choice, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return (
        choice(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), **options)
        .transpose(1, 2)
        .contiguous()
    )
