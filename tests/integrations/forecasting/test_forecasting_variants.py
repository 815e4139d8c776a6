"""Informer, Autoformer, FEDformer with full attention: other models with the same parameters and shapes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

from helpers.forecasting_models import (
    ATTENTIONS,
    INPUT_SIZE,
    SETTINGS,
    VARIANTS,
    H,
    assert_same,
    outputs,
    windows,
)
from neuralforecast.models.autoformer import AutoCorrelation
from neuralforecast.models.fedformer import FourierBlock, FourierCrossAttention
from neuralforecast.models.informer import ProbAttention

from flashbench.integrations.forecasting import VARIANT, build_model, forecasting_attention, swap
from flashbench.integrations.torch import reset_stats, stats


def model_of(key: str, attention: str, variant: str | None) -> Any:
    torch.manual_seed(0)
    return build_model(
        key, h=H, input_size=INPUT_SIZE, attention=attention, variant=variant, dropout=0.0, **SETTINGS[key]
    )


def plain(q: Any, k: Any, v: Any, *, causal: bool = False, scale: float | None = None) -> Any:
    """Full attention of (batch, length, heads, head_dim), by its formula."""
    scores = torch.einsum("blhe,bshe->bhls", q, k) * (scale or q.shape[-1] ** -0.5)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    return torch.einsum("bhls,bshd->blhd", scores.softmax(-1), v)


def inputs(queries: int, keys: int, heads: int = 2) -> list[Any]:
    shapes = [(2, queries, heads, 4), (2, keys, heads, 4), (2, keys, heads, 4)]
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def assert_plain(block: Any, queries: int, keys: int, *, causal: bool = False, scale: float | None = None):
    q, k, v = inputs(queries, keys)
    expected = plain(q, k, v, causal=causal, scale=scale)
    do = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * do).sum(), (q, k, v))
    for attention in ATTENTIONS:
        found, weights = swap(copy.deepcopy(block), attention, VARIANT)(q, k, v, None)
        assert weights is None
        assert found.is_contiguous()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(torch.autograd.grad((found * do).sum(), (q, k, v)), wanted)


@pytest.mark.parametrize("kind", [ProbAttention, AutoCorrelation])
def test_masks_scales_and_lengths_of_self_and_cross_attention(kind: type[Any]) -> None:
    assert_plain(kind(True, attention_dropout=0.0), 9, 9, causal=True)
    assert_plain(kind(False, attention_dropout=0.0, scale=0.2), 9, 9, scale=0.2)
    assert_plain(kind(False, attention_dropout=0.0), 5, 12)
    assert_plain(kind(False, attention_dropout=0.0), 12, 5)


def test_fourier_blocks_of_self_and_cross_attention() -> None:
    assert_plain(FourierBlock(32, 32, 9, modes=3), 9, 9)
    assert_plain(FourierCrossAttention(32, 32, 7, 12, modes=3), 7, 12)


@pytest.mark.parametrize("kind", [ProbAttention, AutoCorrelation])
def test_weights_are_there_where_they_are_asked_for(kind: type[Any]) -> None:
    block = swap(kind(True, attention_dropout=0.0, output_attention=True), variant=VARIANT)
    q, k, v = inputs(9, 9)
    found, weights = block(q, k, v, None)
    torch.testing.assert_close(torch.einsum("bhls,bshd->blhd", weights.tensor(), v), found)


@pytest.mark.parametrize("key", VARIANTS)
def test_parameters_and_shapes_are_the_originals_and_the_name_is_not(key: str) -> None:
    shipped, variant = model_of(key, "original", None), model_of(key, "flash", VARIANT)
    theirs, ours = shipped.state_dict(), variant.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    batch = windows(key)
    forecast = variant(batch)
    assert forecast.shape == shipped(batch).shape
    assert not torch.allclose(forecast, shipped(batch), atol=1e-3)
    assert repr(variant) == variant.hparams["alias"] == f"{shipped!r} (full attention)"
    assert repr(shipped) in ("Informer", "Autoformer", "FEDformer")


@pytest.mark.parametrize("key", VARIANTS)
def test_attentions_agree_and_leave_only_the_blocks_own_weights_without_gradients(key: str) -> None:
    batch = windows(key)
    expected = outputs(model_of(key, "torch-math", VARIANT), batch)
    for attention in ("flash", "standard", "torch-flash"):
        model = model_of(key, attention, VARIANT)
        assert_same(outputs(model, batch), expected, torch.float32)
    unused = {name for name, _ in model.named_parameters()} - expected[1].keys()
    assert all("inner_correlation.weights1" in name for name in unused)
    assert bool(unused) == (key == "fedformer")


@pytest.mark.parametrize("key", VARIANTS)
def test_inside_the_block_models_are_variants_by_name_too(key: str) -> None:
    model, batch = model_of(key, "original", None), windows(key)
    expected = model_of(key, "torch-math", VARIANT)(batch)
    name = repr(model)
    with forecasting_attention(variant=VARIANT):
        torch.testing.assert_close(model(batch), expected)
        assert repr(model) == f"{name} (full attention)"
        reset_stats()
        with forecasting_attention():  # without the variant
            assert repr(model) == name
            model(batch)
        assert stats().forwards == 0
    assert repr(model) == name


def test_undoing_gives_blocks_and_name_back() -> None:
    model = model_of("fedformer", "original", None)
    batch = windows("fedformer")
    expected = model(batch)
    swap(model, variant=VARIANT)
    assert repr(model) == "FEDformer (full attention)"
    assert not torch.equal(model(batch), expected)
    assert torch.equal(swap(model, "original")(batch), expected)
    assert repr(model) == "FEDformer"
    model.alias = "mine"
    swap(swap(model, variant=VARIANT), "standard", VARIANT)
    assert repr(model) == "mine (full attention)"
