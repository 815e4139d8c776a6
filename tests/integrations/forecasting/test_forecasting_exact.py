"""TFT, PatchTST and iTransformer stay the same models: outputs and all gradients equal neuralforecast's."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

from helpers.forecasting_models import (
    ATTENTIONS,
    EXACT,
    INPUT_SIZE,
    N_SERIES,
    SETTINGS,
    H,
    assert_same,
    outputs,
    windows,
)

from flashbench.integrations.forecasting import build_model, forecasting_attention, swap
from flashbench.integrations.torch import reset_stats, stats


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    """Also PyTorch's default dtype, as these models make tensors without a dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def original(key: str, *, input_size: int = INPUT_SIZE, dropout: float = 0.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_model(
        key,
        h=H,
        input_size=input_size,
        attention="original",
        n_series=N_SERIES,
        dropout=dropout,
        **(SETTINGS[key] | settings),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("key", EXACT)
def test_outputs_and_gradients_are_the_originals(key: str, training: bool, dtype: Any) -> None:
    model = original(key).train(training)
    batch = windows(key)
    swapped = {attention: swap(copy.deepcopy(model), attention) for attention in ATTENTIONS}
    expected = outputs(model, batch)
    for attention in ATTENTIONS:
        assert_same(outputs(swapped[attention], batch), expected, dtype)
        with forecasting_attention(attention):
            assert_same(outputs(model, batch), expected, dtype)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("tft", {"n_head": 1}),
        ("tft", {"n_head": 8, "hidden_size": 24, "input_size": 70}),
        ("patchtst", {"res_attention": False}),
        ("patchtst", {"n_heads": 1, "encoder_layers": 1}),
        ("patchtst", {"encoder_layers": 5, "stride": 3, "batch_normalization": True}),
        ("patchtst", {"res_attention": False, "input_size": 97, "n_heads": 8}),
        ("itransformer", {"n_heads": 1, "e_layers": 1}),
        ("itransformer", {"n_heads": 8, "input_size": 40}),
    ],
)
def test_settings_change_nothing_about_that(key: str, settings: dict[str, Any], dtype: Any) -> None:
    model = original(key, **settings)
    batch = windows(key, input_size=settings.get("input_size", INPUT_SIZE))
    expected = outputs(model, batch)
    for attention in ("flash", "standard"):
        assert_same(outputs(swap(model, attention), batch), expected, dtype)


@pytest.mark.parametrize("key", EXACT)
def test_attention_is_computed_here_and_nothing_falls_back(key: str) -> None:
    model = swap(original(key))
    reset_stats()
    outputs(model, windows(key))
    layers = {"tft": 1, "patchtst": 3, "itransformer": 2}[key]
    assert stats() == (layers, layers, {})


@pytest.mark.parametrize("attention", ["flash", "standard"])
@pytest.mark.parametrize("key", EXACT)
def test_dropout_of_attention_is_seeded_and_only_in_training(key: str, attention: str) -> None:
    name = {"tft": "attn_dropout", "patchtst": "attn_dropout", "itransformer": "dropout"}[key]
    model = original(key)
    batch = windows(key)
    plain = swap(copy.deepcopy(model), attention).eval()(batch)
    dropped = swap(original(key, **{name: 0.5}), attention)
    torch.testing.assert_close(dropped.eval()(batch), plain)
    dropped.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(dropped(batch).detach())
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert not torch.allclose(found[0], plain)


def test_patchtst_without_residual_scores_keeps_dropping_out_when_it_evaluates() -> None:
    model = swap(original("patchtst", res_attention=False, attn_dropout=0.5)).eval()
    torch.manual_seed(1)
    first = model(windows("patchtst")).detach()
    assert not torch.allclose(first, model(windows("patchtst")))


def test_tft_shows_the_attention_weights_it_always_did() -> None:
    model = original("tft").eval()
    batch = windows("tft")
    with torch.no_grad():
        model(batch)
        weights, correlations = model.attention_weights(), model.feature_importance_correlations()
        expected = model.interpretability_params["attn_wts"]
        swap(model)(batch)
    found = model.interpretability_params["attn_wts"]
    assert found.size() == expected.size()
    torch.testing.assert_close(found.tensor(), expected)
    torch.testing.assert_close(torch.from_numpy(model.attention_weights()), torch.from_numpy(weights))
    assert model.feature_importance_correlations().equals(correlations)
    torch.testing.assert_close(copy.deepcopy(found).tensor(), expected)


def test_tft_without_its_mask_sees_the_future() -> None:
    model = original("tft")
    block = model.temporal_fusion_decoder.attention
    x = torch.randn(2, H + INPUT_SIZE, 16)
    expected, probabilities = block(x, mask_future_timesteps=False)
    found, weights = swap(block)(x, mask_future_timesteps=False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights.tensor(), probabilities)


def test_itransformer_that_shows_its_weights_is_the_original() -> None:
    model = original("itransformer")
    for layer in model.encoder.attn_layers:
        layer.attention.inner_attention.output_attention = True
    batch = windows("itransformer")
    expected = model(batch)
    reset_stats()
    assert torch.equal(swap(model)(batch), expected)
    assert stats().forwards == 0
