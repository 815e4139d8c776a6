"""The blocks of neuralforecast that can compute attention another way, each as a subclass of the original."""

from __future__ import annotations

from flashbench.integrations.forecasting.blocks.full_attention import FullAttention
from flashbench.integrations.forecasting.blocks.patch_attention import PatchAttention
from flashbench.integrations.forecasting.blocks.shared_values import SharedValues
from flashbench.integrations.forecasting.blocks.variants import (
    InsteadOfAutoCorrelation,
    InsteadOfFourierBlock,
    InsteadOfFourierCrossAttention,
    InsteadOfProbSparse,
)

REPLACEMENTS = (
    SharedValues,
    FullAttention,
    PatchAttention,
    InsteadOfProbSparse,
    InsteadOfAutoCorrelation,
    InsteadOfFourierBlock,
    InsteadOfFourierCrossAttention,
)
