"""The six models under autocast: as exact as with neuralforecast's own attention, every call computed here.

Errors are those against the same model in float32. Outputs may be twice as far off as with attention in the
plain formula under autocast, gradients three times.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

from helpers.forecasting_models import EXACT, INPUT_SIZE, N_SERIES, SETTINGS, VARIANTS, H, outputs, windows
from helpers.torch_halves import HALVES, on_one_thread

from flashbench.integrations.forecasting import VARIANT, build_model, swap
from flashbench.integrations.torch import reset_stats, stats

LAYERS = {"tft": 1, "patchtst": 3, "itransformer": 2, "informer": 4, "autoformer": 4, "fedformer": 4}


def model_of(key: str, attention: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return build_model(
        key,
        h=H,
        input_size=INPUT_SIZE,
        attention=attention,
        variant=VARIANT if key in VARIANTS else None,
        n_series=N_SERIES,
        dropout=0.0,
        **(SETTINGS[key] | settings),
    )


def errors(found: tuple[Any, Any], exact: tuple[Any, Any]) -> tuple[float, float]:
    """The largest errors of the forecast and of all gradients."""
    assert found[1].keys() == exact[1].keys()
    gradients = max((x - exact[1][name]).abs().max().item() for name, x in found[1].items())
    return (found[0] - exact[0]).abs().max().item(), gradients


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with on_one_thread():  # the models are tiny
        yield


@pytest.mark.parametrize("engine", ["flash", "standard"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("key", [*EXACT, *VARIANTS])
def test_outputs_and_gradients(key: str, dtype: Any, engine: str) -> None:
    model = model_of(key, "torch-math" if key in VARIANTS else "original")
    batch = windows(key)
    exact = outputs(model, batch)
    with torch.autocast("cpu", dtype):
        plain = outputs(model, batch)
    swap(model, engine, VARIANT if key in VARIANTS else None)
    reset_stats()
    with torch.autocast("cpu", dtype):
        ours = outputs(model, batch)
    assert stats() == (LAYERS[key], LAYERS[key], {})
    (output, gradient), (by_plain, gradient_by_plain) = errors(ours, exact), errors(plain, exact)
    assert output <= 2 * by_plain + 1e-5
    assert gradient <= 3 * gradient_by_plain + 1e-5


def test_tft_shows_its_weights_in_float32() -> None:
    """As the original does: NumPy, which takes them next, has no bfloat16."""
    model = model_of("tft", "original").eval()
    batch = windows("tft")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(batch)
        expected = model.attention_weights()
        swap(model)(batch)
    found = model.attention_weights()
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0.02, atol=0.02)
