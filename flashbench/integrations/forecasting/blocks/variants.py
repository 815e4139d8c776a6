"""Full attention in place of blocks that are not softmax attention. Their papers compare them with it.

Input and output are those of the original block: (batch, length, heads, head_dim). Every query sees every
key, unless the block's mask_flag makes it causal. FEDformer's blocks have parameters, which are kept but not
used. The original blocks of Informer and FEDformer return (batch, heads, ...) to a layer that reads
(batch, length, ...). Here the heads of a position stay at that position.
"""

from __future__ import annotations

import math
from typing import Any

from neuralforecast.models.autoformer import AutoCorrelation
from neuralforecast.models.fedformer import FourierBlock, FourierCrossAttention
from neuralforecast.models.informer import ProbAttention
from torch import Tensor

from flashbench.integrations.forecasting.blocks.replacement import Replacement, attend_by_rows
from flashbench.integrations.forecasting.blocks.weights import AttentionWeights
from flashbench.integrations.forecasting.choice import Choice


class _MaybeCausal(Replacement):
    """Causal if the block's mask_flag is set. Returns probabilities if its output_attention is set."""

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
        scale = module.scale or 1.0 / math.sqrt(queries.shape[-1])
        o = attend_by_rows(
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


class InsteadOfProbSparse(_MaybeCausal, ProbAttention):
    """Zhou et al. 2021, "Informer": canonical self-attention."""

    original = ProbAttention
    original_forward = ProbAttention.forward
    instead_of = "ProbSparse"


class InsteadOfAutoCorrelation(_MaybeCausal, AutoCorrelation):
    """Wu et al. 2021, "Autoformer": full attention."""

    original = AutoCorrelation
    original_forward = AutoCorrelation.forward
    instead_of = "auto-correlation"


class _SeesAll(Replacement):
    """Every query sees every key, as in the Fourier blocks."""

    instead_of = "a Fourier block"

    @classmethod
    def compute(
        cls, module: Any, choice: Choice, q: Tensor, k: Tensor, v: Tensor, mask: Any
    ) -> tuple[Tensor, None]:
        return attend_by_rows(choice, q, k, v), None


class InsteadOfFourierBlock(_SeesAll, FourierBlock):
    """Zhou et al. 2022, "FEDformer": self-attention."""

    original = FourierBlock
    original_forward = FourierBlock.forward


class InsteadOfFourierCrossAttention(_SeesAll, FourierCrossAttention):
    """Zhou et al. 2022, "FEDformer": attention to the encoder's output."""

    original = FourierCrossAttention
    original_forward = FourierCrossAttention.forward
