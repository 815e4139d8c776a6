"""NeuralForecast trains these models and forecasts with them: losses and forecasts stay the same."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

import numpy as np
from helpers.forecasting_models import EXACT, SETTINGS, VARIANTS
from neuralforecast import NeuralForecast
from neuralforecast.utils import AirPassengersPanel

from flashbench.integrations.forecasting import MODELS, VARIANT, build_model, forecasting_attention
from flashbench.integrations.torch import reset_stats, stats

STEPS = 3


def trained(
    key: str, attention: str, variant: str | None = None, **trainer: Any
) -> tuple[list[float], Any, str]:
    """Losses of the training steps, the forecasts, and the forecasts' column name. trainer: of Lightning."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = build_model(
        key,
        h=4,
        input_size=24,
        attention=attention,
        variant=variant,
        n_series=2,
        dropout=0.0,
        max_steps=STEPS,
        batch_size=2,
        windows_batch_size=8,
        scaler_type="standard",
        optimizer=torch.optim.SGD,  # Adam turns a gradient's rounding error into full steps
        learning_rate=1e-2,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        **SETTINGS[key],
        **trainer,
    )
    forecaster = NeuralForecast(models=[model], freq="ME")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas and Lightning warn of neuralforecast's calls
        forecaster.fit(AirPassengersPanel[["unique_id", "ds", "y"]])
        forecast = forecaster.predict()
    (column,) = set(forecast.columns) - {"unique_id", "ds"}
    losses = [float(loss) for _, loss in forecaster.models[0].train_trajectories]
    return losses, forecast[column].to_numpy(), column


@pytest.mark.parametrize("key", EXACT)
def test_losses_and_forecasts_are_the_originals(key: str) -> None:
    losses, forecast, column = trained(key, "original")
    assert len(set(losses)) == STEPS  # it learns
    reset_stats()
    for attention in ("flash", "standard"):
        ours = trained(key, attention)
        np.testing.assert_allclose(ours[0], losses, rtol=1e-5)
        np.testing.assert_allclose(ours[1], forecast, rtol=1e-5)
        assert ours[2] == column == MODELS[key].name
    with forecasting_attention():
        unchanged = trained(key, "original")
    np.testing.assert_allclose(unchanged[0], losses, rtol=1e-5)
    np.testing.assert_allclose(unchanged[1], forecast, rtol=1e-5)
    assert stats().backwards >= 3 * STEPS
    assert not stats().fallbacks


@pytest.mark.parametrize("key", VARIANTS)
def test_variants_train_alike_and_forecast_under_their_own_name(key: str) -> None:
    losses, forecast, column = trained(key, "torch-math", VARIANT)
    assert len(set(losses)) == STEPS
    assert column == f"{MODELS[key].name} (full attention)"
    ours = trained(key, "flash", VARIANT)
    np.testing.assert_allclose(ours[0], losses, rtol=1e-5)
    np.testing.assert_allclose(ours[1], forecast, rtol=1e-5)
    assert ours[2] == column


def test_training_with_mixed_precision() -> None:
    """Lightning's autocast. Errors of bfloat16 are some 1e-2."""
    losses, forecast, _ = trained("itransformer", "original", precision="bf16-mixed")
    reset_stats()
    ours = trained("itransformer", "flash", precision="bf16-mixed")
    np.testing.assert_allclose(ours[0], losses, rtol=0.02)
    np.testing.assert_allclose(ours[1], forecast, rtol=0.02)
    assert stats().backwards == 2 * STEPS
    assert not stats().fallbacks
