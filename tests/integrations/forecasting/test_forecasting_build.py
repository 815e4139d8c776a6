"""Any of the six models from one call or one config; refusals and their reasons."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neuralforecast")

from helpers.forecasting_models import ATTENTIONS, EXACT, INPUT_SIZE, N_SERIES, SETTINGS, VARIANTS, H, windows
from neuralforecast.models import NHITS

from flashbench import AttentionError, EngineError, ModelConfig, UnsupportedError
from flashbench.integrations.forecasting import MODELS, VARIANT, build_model, forecasting_attention, swap
from flashbench.integrations.torch import eager, reset_stats, stats
from flashbench.integrations.torch.options import Options


def build(key: str, config: ModelConfig | None = None, **more: Any) -> Any:
    torch.manual_seed(0)
    return build_model(
        key, config, **({"h": H, "input_size": INPUT_SIZE, "n_series": N_SERIES} | SETTINGS[key] | more)
    )


def variant_of(key: str) -> str | None:
    return None if MODELS[key].exact else VARIANT


def test_the_six_and_what_they_have() -> None:
    assert [m.key for m in MODELS.values() if m.exact] == sorted(EXACT, key=list(MODELS).index)
    assert {m.name: m.own_attention for m in MODELS.values() if not m.exact} == {
        "Informer": "ProbSparse",
        "Autoformer": "auto-correlation",
        "FEDformer": "Fourier block",
    }
    for model in MODELS.values():
        assert model.cls().__name__ == model.name
        assert model.multivariate == model.cls().MULTIVARIATE


@pytest.mark.parametrize("key", list(MODELS))
def test_tables_of_positions_end_where_it_is_said(key: str) -> None:
    tables = {
        m.pe.shape[1]
        for m in build(key, variant=variant_of(key)).modules()
        if type(m).__name__ == "PositionalEmbedding"
    }
    most = MODELS[key].most_context
    assert tables == (set() if most is None else {most})


@pytest.mark.parametrize("key", list(MODELS))
def test_one_config_builds_them_all(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    compute = eager.attention

    def watched(q: Any, k: Any, v: Any, options: Options) -> Any:
        asked.append((options.engine, options.block_q, options.block_k))
        return compute(q, k, v, options)

    monkeypatch.setattr(eager, "attention", watched)
    flash = ModelConfig().with_flash_attention(True).with_flash_block_size(16)
    for config in (flash, flash.with_flash_attention(False)):
        model = build(key, config, variant=variant_of(key), dropout=0.0)
        assert model(windows(key)).shape == (3, H, N_SERIES if MODELS[key].multivariate else 1)
    assert set(asked) == {("flash", 16, 16), ("standard", None, None)}


@pytest.mark.parametrize("key", VARIANTS)
def test_without_the_variant_it_says_what_the_model_has_instead(key: str) -> None:
    for attention in ATTENTIONS:
        with pytest.raises(UnsupportedError, match=f"{MODELS[key].own_attention} instead") as error:
            build(key, attention=attention)
        assert VARIANT in str(error.value.hint)
    shipped = build(key, attention="original")
    with pytest.raises(UnsupportedError, match="instead of softmax attention") as error:
        swap(shipped)
    assert VARIANT in str(error.value.hint)
    with pytest.raises(UnsupportedError, match="as shipped"):
        build(key, attention="original", variant=VARIANT)


@pytest.mark.parametrize("key", list(MODELS))
def test_causal_is_the_models_own(key: str) -> None:
    config = ModelConfig().with_flash_causal(True)
    if key == "tft":
        expected = build(key, dropout=0.0)(windows(key))
        torch.testing.assert_close(build(key, config, dropout=0.0)(windows(key)), expected)
        return
    with pytest.raises(AttentionError, match=f"flash_causal must be False for {MODELS[key].name}"):
        build(key, config, variant=variant_of(key))


def test_what_else_is_refused() -> None:
    with pytest.raises(AttentionError, match="tft, informer"):
        build_model("lstm", h=H, input_size=INPUT_SIZE)
    with pytest.raises(UnsupportedError, match="PatchTST has softmax attention"):
        build("patchtst", variant=VARIANT)
    with pytest.raises(AttentionError, match="variant must be"):
        build("informer", variant="full")
    with pytest.raises(AttentionError, match="n_series"):
        build("itransformer", n_series=None)
    with pytest.raises(AttentionError, match="give one"):
        build("patchtst", ModelConfig(), attention="flash")
    with pytest.raises(EngineError, match="known: flash"):
        build("patchtst", attention="fast")
    with pytest.raises(UnsupportedError, match=r"Informer takes contexts up to 5000, .* not 5001"):
        build("informer", variant=VARIANT, input_size=5001)
    with pytest.raises(AttentionError, match="block_size"):
        swap(build("patchtst"), block_size=0)
    with pytest.raises(UnsupportedError, match="block_size is for attention 'flash'"):
        swap(build("patchtst"), "torch-flash", block_size=16)
    with pytest.raises(UnsupportedError, match="NHITS has no attention"):
        swap(NHITS(h=H, input_size=INPUT_SIZE))


@pytest.mark.parametrize("key", list(MODELS))
def test_copies_pickles_and_states_carry_the_attention(key: str) -> None:
    model = build(key, variant=variant_of(key), dropout=0.0).eval()
    batch = windows(key)
    with torch.no_grad():
        expected = model(batch)
        again = build(key, variant=variant_of(key), dropout=0.0).eval()
        again.load_state_dict(model.state_dict())
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), again):
            reset_stats()
            assert torch.equal(copied(batch), expected)
            assert repr(copied) == repr(model)
            assert stats().forwards > 0


def test_dropout_of_all_layers_at_once_unless_one_is_named() -> None:
    model = build("patchtst", dropout=0.0, fc_dropout=0.3)
    assert (model.hparams.dropout, model.hparams.attn_dropout, model.hparams.fc_dropout) == (0.0, 0.0, 0.3)
    assert build("patchtst").hparams.dropout == MODELS["patchtst"].cls()(h=1, input_size=9).hparams.dropout


def test_blocks_of_code_nest_and_end_with_exceptions() -> None:
    model = build("patchtst", attention="original", dropout=0.0)
    batch, forward = (
        windows("patchtst"),
        type(model.model.backbone.encoder.layers[0].self_attn.sdp_attn).forward,
    )
    reset_stats()

    def ran() -> int:
        before = stats().forwards
        model(batch)
        return stats().forwards - before

    with contextlib.suppress(ZeroDivisionError), forecasting_attention():
        assert ran() == 3
        with forecasting_attention("original"):
            assert ran() == 0
            with forecasting_attention("standard"):
                assert ran() == 3
            assert ran() == 0
        assert ran() == 3
        raise ZeroDivisionError
    assert ran() == 0
    assert type(model.model.backbone.encoder.layers[0].self_attn.sdp_attn).forward is forward


def test_a_swapped_model_keeps_its_attention_inside_the_block() -> None:
    model = build("patchtst", attention="torch-math", dropout=0.0)
    reset_stats()
    with forecasting_attention():
        model(windows("patchtst"))
    assert stats().forwards == 0
