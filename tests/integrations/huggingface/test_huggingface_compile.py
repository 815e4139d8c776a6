"""`torch.compile` of whole models, without a break of the graph."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.huggingface_models import CASES, LEFT, RIGHT, VOCABULARY, Case, default_dtype

from flashbench.integrations.huggingface import stats

NAME = "fb_numba"


@pytest.mark.grid
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "left-padded"])
@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_compiled_model(case: Case, padded: bool, dtype: Any) -> None:
    torch.compiler.reset()
    with default_dtype(dtype):
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
    roundings = 1e-5 if dtype is torch.float64 else 16 * torch.finfo(dtype).eps  # of the models' other layers
    for a, b in zip([logits[0], *gradients[0]], [logits[1], *gradients[1]], strict=True):
        torch.testing.assert_close(b, a, rtol=roundings, atol=roundings * max(1.0, float(a.abs().max())))
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


def test_prompts_of_other_lengths_with_a_static_cache() -> None:
    """At the second length, the compiler makes sizes symbolic."""
    torch.compiler.reset()
    with default_dtype(torch.float32):
        model = CASES[0].model()
    torch.manual_seed(0)
    prompts = [torch.randint(1, VOCABULARY, (1, length)) for length in (5, 9)]
    tokens = []
    for attention in ("eager", NAME):
        model.set_attn_implementation(attention)
        if attention == NAME:
            model.forward = torch.compile(model.forward, fullgraph=True, backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own tracing
            tokens += [
                model.generate(ids, max_new_tokens=2, do_sample=False, cache_implementation="static")
                for ids in prompts
            ]
    assert torch.equal(tokens[0], tokens[2])
    assert torch.equal(tokens[1], tokens[3])
    assert stats().forwards == 2 * 2 * CASES[0].attentions


class Traceable(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=False)[0]


@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=lambda case: case.name)
def test_a_trace_has_nothing_of_its_examples_padding(case: Case) -> None:
    with default_dtype(torch.float32), torch.no_grad():
        model = case.model()
        model.config.use_cache = False  # a trace cannot return a cache
        ids = case.inputs()["input_ids"]
        model.set_attn_implementation(NAME)
        module = Traceable(model, ["input_ids", "attention_mask"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes are those of the example
            for theirs in (DeprecationWarning, FutureWarning):  # PyTorch's and transformers', of tracing
                warnings.simplefilter("ignore", theirs)
            traces = [
                torch.jit.trace(module, (ids, mask), check_trace=False)
                for mask in (torch.ones_like(LEFT), LEFT)
            ]
        model.set_attn_implementation("eager")
        for mask in (torch.ones_like(LEFT), LEFT, RIGHT):
            seen = mask[..., None]
            for trace in traces:
                torch.testing.assert_close(
                    trace(ids, mask) * seen, module(ids, mask) * seen, rtol=1e-4, atol=1e-4
                )
    assert stats().forwards > 0
