"""Exact attention in neuralforecast's transformers.

TFT, PatchTST and iTransformer stay the same models. Informer, Autoformer and FEDformer become variants: full
attention replaces their own block.

Needs the extra `models`: pip install 'flashbench[models]'. It is imported at first use.
"""

from __future__ import annotations

from flashbench.integrations.forecasting.build import build_model
from flashbench.integrations.forecasting.choice import ORIGINAL, VARIANT
from flashbench.integrations.forecasting.models import MODELS, ForecastingModel
from flashbench.integrations.forecasting.replacement import forecasting_attention
from flashbench.integrations.forecasting.swapping import swap

__all__ = [
    "MODELS",
    "ORIGINAL",
    "VARIANT",
    "ForecastingModel",
    "build_model",
    "forecasting_attention",
    "swap",
]
