"""`torch.compile` of whole models, without a break of the graph."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from huggingface_models import CASES, LEFT, Case, default_dtype

from flashbench.integrations.huggingface import stats

NAME = "fb_numba"


@pytest.mark.parametrize("padded", [False, True], ids=["full", "left-padded"])
@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_compiled_model(case: Case, padded: bool) -> None:
    torch.compiler.reset()
    with default_dtype(torch.float64):
        model, inputs = case.model(), case.inputs()
        if padded:
            inputs["attention_mask"] = LEFT
        model.set_attn_implementation(NAME)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        gradients, logits = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own tracing
            for run in (model, compiled):
                model.zero_grad()
                output = run(**inputs, use_cache=False).logits
                if padded:
                    output = output * LEFT[..., None]
                output.tanh().sum().backward()
                logits.append(output.detach())
                gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert stats() == (2 * case.attentions, 2 * case.attentions, {})


def test_compiled_decoding() -> None:
    torch.compiler.reset()
    with default_dtype(torch.float32):
        case = CASES[1]
        model, inputs = case.model(), case.inputs()
    tokens = []
    for attention in ("eager", NAME):
        model.set_attn_implementation(attention)
        if attention == NAME:
            model.forward = torch.compile(model.forward, backend="aot_eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own tracing
            tokens.append(
                model.generate(**inputs, max_new_tokens=6, do_sample=False, cache_implementation="static")
            )
    assert torch.equal(*tokens)
    assert stats() == (6 * case.attentions, 0, {})
