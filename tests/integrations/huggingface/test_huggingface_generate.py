"""Decoding with a key/value cache gives the same tokens as eager attention."""

from __future__ import annotations

import inspect

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_models import CASES, LEFT, Case, default_dtype

from flashbench.integrations.huggingface import reset_stats, stats

NAME = "fb_numba"
NEW = 12
DECODERS = [case for case in CASES if case.generates]
each_decoder = pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "left-padded"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@each_decoder
def test_greedy_tokens(case: Case, cache: str, padded: bool) -> None:
    with default_dtype(torch.float32):
        model, inputs = case.model(), case.inputs()
    if padded:
        inputs["attention_mask"] = LEFT
    tokens = {}
    for attention in ("eager", NAME):
        model.set_attn_implementation(attention)
        tokens[attention] = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, cache_implementation=cache
        )
    assert tokens[NAME].shape[1] == inputs["input_ids"].shape[1] + NEW
    assert torch.equal(tokens[NAME], tokens["eager"])
    assert stats() == (case.attentions * NEW, 0, {})


@each_decoder
def test_prefill_and_decoding_agree_with_one_forward(case: Case) -> None:
    with default_dtype(torch.float64), torch.no_grad():
        model = case.model()
        tokens = case.inputs()["input_ids"]
        model.set_attn_implementation("eager")
        at_once = model(tokens).logits
        model.set_attn_implementation(NAME)
        reset_stats()
        keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        cache = {keyword: transformers.DynamicCache(config=model.config)}
        parts = [model(part, **cache).logits for part in tokens.split([7, 6, 1, 1, 1, 1, 1, 1], dim=1)]
    torch.testing.assert_close(
        torch.cat(parts, 1), at_once, rtol=1e-6, atol=1e-6
    )  # eager's softmax is float32
    assert stats() == (8 * case.attentions, 0, {})
