"""Whole models give the same logits, gradients and losses as with transformers' own eager attention."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_models import CASES, LEFT, RIGHT, Case, apart, compute, default_dtype

from flashbench.integrations.huggingface import stats

NAME = "fb_numba"
DECODERS = [case for case in CASES if case.generates]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_gradients(case: Case, dtype: Any) -> None:
    with default_dtype(dtype):
        model, inputs = case.model(), case.inputs()
        eager, ours = compute(model, "eager", case, inputs), compute(model, NAME, case, inputs)
    assert apart(eager, ours) < TOLERANCE[dtype]
    assert stats() == (case.attentions, case.attentions, {})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_attention_that_is_a_little_off_is_noticed(case: Case) -> None:
    with default_dtype(torch.float64):
        model, inputs = case.model(), case.inputs()
        eager = compute(model, "eager", case, inputs)
        ours = transformers.AttentionInterface()[NAME]

        def off(module: Any, q: Any, k: Any, v: Any, mask: Any, **rest: Any) -> Any:
            return ours(module, q * 1.0001, k, v, mask, **rest)

        transformers.AttentionInterface.register("off", off)
        transformers.AttentionMaskInterface.register("off", transformers.AttentionMaskInterface()[NAME])
        assert apart(eager, compute(model, "off", case, inputs)) > 1e-8


@each_dtype
@pytest.mark.parametrize("padding", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_padded_batches(case: Case, padding: Any, dtype: Any) -> None:
    with default_dtype(dtype):
        model = case.model()
        inputs = {**case.inputs(), "attention_mask": padding}
        eager, ours = compute(model, "eager", case, inputs), compute(model, NAME, case, inputs)
    assert apart(eager, ours) < TOLERANCE[dtype]
    assert stats() == (2, 2, {})


@pytest.mark.grid
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training(case: Case) -> None:
    losses = {}
    with default_dtype(torch.float64):
        for attention in ("eager", NAME):
            model, inputs = case.model(), case.inputs()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            losses[attention] = []
            for _ in range(4):
                losses[attention].append(float(compute(model, attention, case, inputs).loss))
                optimizer.step()
    assert losses[NAME] == pytest.approx(losses["eager"], rel=1e-9)
    assert len(set(losses[NAME])) == 4
    assert stats() == (4 * case.attentions, 4 * case.attentions, {})


@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_several_documents_in_a_row(case: Case) -> None:
    """Packed without padding: positions start again at each document, and documents do not see each other."""
    with default_dtype(torch.float64):
        model = case.model()
        inputs = {**case.inputs(), "position_ids": torch.cat([torch.arange(8), torch.arange(11)])[None]}
        inputs["use_cache"] = False
        eager, ours = compute(model, "eager", case, inputs), compute(model, NAME, case, inputs)
        assert apart(eager, ours) < 1e-12
        first = {"input_ids": inputs["input_ids"][:, :8]}
        alone = compute(model, NAME, case, first)
    torch.testing.assert_close(ours.logits[:, :8], alone.logits)


def test_gradient_checkpointing() -> None:
    case = DECODERS[0]
    with default_dtype(torch.float64):
        model, inputs = case.model(), case.inputs()
        eager = compute(model, "eager", case, inputs)
        model.train()
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()
        assert apart(eager, compute(model, NAME, case, inputs)) < 1e-12
    assert stats() == (4, 2, {})


def test_causality_of_informers_decoder() -> None:
    """Its modules have is_causal = False: only the mask hides later values from earlier outputs."""
    case = CASES[-1]
    with default_dtype(torch.float64), torch.no_grad():
        model, inputs = case.model(), case.inputs()
        model.set_attn_implementation(NAME)
        before = model(**inputs).params[0]
        inputs["future_values"] = inputs["future_values"].clone()
        inputs["future_values"][:, -2] += 1.0
        after = model(**inputs).params[0]
    assert torch.equal(before[:, :-2], after[:, :-2])
    assert not torch.equal(before, after)


def test_prob_sparse_attention_still_adds_the_mask_itself() -> None:
    """Informer's other attention does not use the interface. It adds the same mask to its own scores."""
    config = transformers.InformerConfig(
        prediction_length=6, context_length=12, lags_sequence=[1, 2], num_time_features=1, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, attention_type="prob", distil=False,
    )  # fmt: skip
    with default_dtype(torch.float64):
        torch.manual_seed(0)
        model = transformers.InformerForPrediction(config).eval()
        inputs = CASES[-1].inputs()
        eager, ours = (compute(model, name, CASES[-1], inputs) for name in ("eager", NAME))
    assert apart(eager, ours) < 1e-12
