"""Tiny models of every kind with inputs, for the tests in this folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "tft": {"hidden_size": 16, "n_head": 4},
    "informer": {"hidden_size": 16, "n_head": 2, "conv_hidden_size": 8},
    "autoformer": {"hidden_size": 16, "n_head": 2, "conv_hidden_size": 8},
    "fedformer": {"hidden_size": 16, "n_head": 8, "conv_hidden_size": 8, "modes": 4},
    "patchtst": {"hidden_size": 16, "n_heads": 4, "linear_hidden_size": 16, "patch_len": 8, "stride": 1},
    "itransformer": {"hidden_size": 16, "n_heads": 2, "d_ff": 16},
}
EXACT = ("tft", "patchtst", "itransformer")
VARIANTS = ("informer", "autoformer", "fedformer")
ATTENTIONS = ("flash", "standard", "torch-flash", "torch-math")
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
H, INPUT_SIZE, N_SERIES = 5, 23, 7


def windows(
    key: str, *, batch: int = 3, input_size: int = INPUT_SIZE, n_series: int = N_SERIES
) -> dict[str, Any]:
    """The inputs that neuralforecast passes to a model's forward, in PyTorch's default dtype."""
    numbers = np.random.default_rng(1).standard_normal((3, input_size, N_SERIES))
    y = torch.from_numpy(numbers).to(torch.get_default_dtype())
    y = y if key == "itransformer" else y[..., :1]
    return {
        "insample_y": y,
        "insample_mask": torch.ones_like(y),
        "futr_exog": None,
        "hist_exog": None,
        "stat_exog": None,
    }


def outputs(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The forecast, and each parameter's gradient of a loss that gives every number another weight."""
    model.zero_grad()
    forecast = model(batch)
    weights = torch.linspace(-1.0, 1.0, forecast.numel()).reshape(forecast.shape)
    (forecast * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return forecast.detach(), gradients


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any], dtype: torch.dtype) -> None:
    """Assert that outputs and gradients agree within the promised tolerance."""
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
