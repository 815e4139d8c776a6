"""Models in bfloat16 and float16: as exact as with eager attention in that dtype, every call computed here.

As flash-attention's tests do, errors are those against the same weights and inputs in float64. Logits may be
twice as far off as eager's, gradients three times.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_halves import decode, errors_of, half_model
from helpers.huggingface_models import CASES, LEFT, RIGHT, Case, compute, default_dtype
from helpers.torch_halves import HALVES, on_one_thread
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from flashbench.integrations.huggingface import stats
from flashbench.integrations.huggingface.attention import attention_forward
from flashbench.integrations.huggingface.lazy_masks import lazy_mask

NAME = "fb_numba"
NEW = 6
DECODERS = [case for case in CASES if case.generates]
pytestmark = pytest.mark.usefixtures("_one_thread")
each_half = pytest.mark.parametrize("dtype", HALVES, ids=str)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    with on_one_thread():  # the models are tiny
        yield


@each_half
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_and_gradients(case: Case, dtype: Any) -> None:
    half = half_model(case, dtype)
    other = half.exactly()
    exact = compute(other.model, "eager", case, other.inputs)
    eager = errors_of(half, exact, "eager", case)
    ours = errors_of(half, exact, NAME, case)
    assert stats() == (case.attentions, case.attentions, {})
    assert ours.logits <= 2 * eager.logits + 1e-5
    assert ours.gradients <= 3 * eager.gradients + 1e-5


@each_half
@pytest.mark.parametrize("case", DECODERS[:2], ids=lambda case: case.name)
def test_an_attention_that_is_off_is_noticed(case: Case, dtype: Any) -> None:
    """By the same criterion: queries that are larger by a half."""
    ours = transformers.AttentionInterface()[NAME]

    def off(module: Any, q: Any, *arguments: Any, **named: Any) -> Any:
        return ours(module, q * 1.5, *arguments, **named)

    transformers.AttentionInterface.register("off", off)
    transformers.AttentionMaskInterface.register("off", transformers.AttentionMaskInterface()[NAME])
    half = half_model(case, dtype)
    other = half.exactly()
    exact = compute(other.model, "eager", case, other.inputs)
    eager, found = (errors_of(half, exact, name, case) for name in ("eager", "off"))
    assert found.logits > 4 * eager.logits


@each_half
@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_padded_batches(case: Case, dtype: Any) -> None:
    half = half_model(case, dtype)
    half.inputs["attention_mask"] = LEFT
    other = half.exactly()
    exact = compute(other.model, "eager", case, other.inputs)
    eager, ours = (errors_of(half, exact, name, case) for name in ("eager", NAME))
    assert stats() == (2, 2, {})
    assert ours.logits <= 2 * eager.logits + 1e-5
    assert ours.gradients <= 3 * eager.gradients + 1e-5


@each_half
@pytest.mark.parametrize(("cache", "padded"), [("dynamic", True), ("static", False)])
@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_greedy_tokens(case: Case, cache: str, padded: bool, dtype: Any) -> None:
    """Logits of each step are as exact as eager's, and tokens are the same until rounding may decide."""
    half = half_model(case, dtype)
    seen = LEFT if padded else torch.ones_like(LEFT)
    exact = half.exactly()
    eager, ours = (decode(half, exact, name, cache, seen, NEW) for name in ("eager", NAME))
    assert stats() == (case.attentions * NEW, 0, {})
    errors = [(x.logits - x.exact).abs().max().item() for x in (eager, ours)]
    assert errors[1] <= 2 * errors[0] + 1e-5
    best = eager.exact.topk(2).values
    certain = (best[..., 0] - best[..., 1] > 2 * max(errors)).cumprod(1).bool()  # all tokens so far were
    assert torch.equal(eager.tokens[certain], ours.tokens[certain])


def test_a_static_cache_under_the_compiler() -> None:
    torch.compiler.reset()
    model, inputs = half_model(DECODERS[0], torch.bfloat16)
    model.set_attn_implementation(NAME)
    tokens = []
    for forward in (model.forward, torch.compile(model.forward, fullgraph=True, backend="eager")):
        model.forward = forward
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of its own tracing
            tokens.append(
                model.generate(**inputs, max_new_tokens=4, do_sample=False, cache_implementation="static")
            )
    assert torch.equal(*tokens)
    assert stats() == (2 * 4 * DECODERS[0].attentions, 0, {})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_under_autocast(case: Case) -> None:
    """float32 models whose products are in bfloat16. Rotations make queries float32 there, values not."""
    with default_dtype(torch.float32):
        model, inputs = case.model(), case.inputs()
    exact = compute(copy.deepcopy(model), "eager", case, inputs)
    found = {}
    for name in ("eager", NAME):
        with torch.autocast("cpu", torch.bfloat16):
            found[name] = compute(model, name, case, inputs)
    assert stats() == (case.attentions, case.attentions, {})
    eager, ours = ((found[name].logits - exact.logits).abs().max() for name in ("eager", NAME))
    assert ours <= 2 * eager + 1e-5


class Layer(torch.nn.Module):
    num_key_value_groups = 2


def qkv(dtype: Any) -> list[Any]:
    torch.manual_seed(0)
    shapes = ((2, 4, 19, 8), (2, 2, 19, 8), (2, 2, 19, 8))
    return [torch.randn(shape).to(dtype) for shape in shapes]


MASKS = {
    "lazy": lambda dtype: lazy_mask(2, 19, 19, attention_mask=RIGHT.bool(), dtype=dtype),
    "its dtype": lambda dtype: eager_mask(2, 19, 19, attention_mask=RIGHT.bool(), dtype=dtype),
    "float32": lambda dtype: eager_mask(2, 19, 19, attention_mask=RIGHT.bool(), dtype=torch.float32),
    "float64": lambda dtype: eager_mask(2, 19, 19, attention_mask=RIGHT.bool(), dtype=torch.float64),
    "bool": lambda dtype: sdpa_mask(
        2, 19, 19, attention_mask=RIGHT.bool(), allow_is_causal_skip=False
    ),
}  # fmt: skip


@each_half
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_dtype(kind: str, biased: bool, dtype: Any) -> None:
    q, k, v = qkv(dtype)
    bias = torch.randn(1, 4, 19, 19).to(dtype) if biased else None
    ours = attention_forward(Layer(), q, k, v, MASKS[kind](dtype), position_bias=bias)[0]
    wide = None if bias is None else bias.double()
    expected = sdpa_attention_forward(
        Layer(), q.double(), k.double(), v.double(), MASKS["bool"](dtype), position_bias=wide
    )[0]
    assert ours.dtype is dtype
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert stats() == (1, 0, {})


@each_half
def test_sinks_of_both_precisions(dtype: Any) -> None:
    q, k, v = qkv(dtype)
    for sinks in (torch.randn(4), torch.randn(4).to(dtype)):
        own = sinks.requires_grad_()
        o = attention_forward(Layer(), q, k, v, None, s_aux=own, is_causal=True)[0]
        (gradient,) = torch.autograd.grad(o.sum(), own)
        assert (o.dtype, gradient.dtype) == (dtype, sinks.dtype)
    assert stats() == (2, 2, {})
