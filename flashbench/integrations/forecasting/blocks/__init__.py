"""Replacements for the attention blocks of neuralforecast, each a subclass of the original block."""

from __future__ import annotations

from flashbench.integrations.forecasting.home import import_neuralforecast

import_neuralforecast()  # before the blocks, which import parts of it

from flashbench.integrations.forecasting.blocks.full_attention import FullAttention  # noqa: E402
from flashbench.integrations.forecasting.blocks.patch_attention import PatchAttention  # noqa: E402
from flashbench.integrations.forecasting.blocks.shared_values import SharedValues  # noqa: E402
from flashbench.integrations.forecasting.blocks.variants import (  # noqa: E402
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
