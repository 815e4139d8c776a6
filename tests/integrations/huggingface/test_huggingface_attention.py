"""The attention function itself: its arguments, what it leaves to transformers, and its allowed names."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers.huggingface_layers import Layer, close, qkv
from helpers.huggingface_masks import mask_function
from helpers.huggingface_models import CASES, default_dtype
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    eager_mask,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from flashbench.errors import AttentionError, EngineError, UnsupportedError
from flashbench.integrations.huggingface import attention as huggingface_attention
from flashbench.integrations.huggingface import register, reset_stats, stats
from flashbench.integrations.huggingface.lazy_masks import lazy_mask

forward = huggingface_attention.attention_forward
NAME = "fb_numba"


def of_large_heads(*sizes: int) -> list[Any]:
    """Tensors that flashbench leaves to transformers. The added numbers change only the values' size."""
    return [torch.nn.functional.pad(x, (0, 257 - x.shape[3])) for x in qkv(*sizes)]


@pytest.mark.parametrize(
    "name", ["my_flash", "sdpa2", "flex_attention2", "paged|fb", "a/b", "a:b", "eager", "sdpa", ""]
)
def test_names_that_mean_something_else(name: str) -> None:
    with pytest.raises(EngineError, match="name must"):
        register(name)


def test_a_name_of_another_package_is_not_taken() -> None:
    transformers.AttentionInterface.register("theirs", sdpa_attention_forward)
    with pytest.raises(EngineError, match="a new one"):
        register("theirs")
    assert transformers.AttentionInterface()["theirs"] is sdpa_attention_forward


def test_engines() -> None:
    with pytest.raises(EngineError, match="unknown engine"):
        register("fb_other", engine="nothing")
    assert register("fb_standard", engine="standard") == register("fb_standard", engine="standard")
    q, k, v = qkv()
    close(
        transformers.AttentionInterface()["fb_standard"](Layer(2), q, k, v, None)[0],
        sdpa_attention_forward(Layer(2, False), q, k, v, None)[0],
    )


@pytest.mark.parametrize("asked", [None, False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 9), (1, 9)])
def test_without_a_mask(queries: int, keys: int, own: bool, asked: bool | None) -> None:
    given = [Layer(2, own), *qkv(queries, keys), None]
    close(forward(*given, is_causal=asked)[0], sdpa_attention_forward(*given, is_causal=asked)[0])


def test_modules_that_say_nothing_of_causality_are_not_causal() -> None:
    q, k, v = qkv()
    close(forward(Layer(2), q, k, v, None)[0], forward(Layer(2, False), q, k, v, None)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_window_without_a_mask(dtype: Any) -> None:
    q, k, v = (x.to(dtype) for x in qkv())
    mask = sdpa_mask(
        2, 6, 6, mask_function=sliding_window_causal_mask_function(3), allow_is_causal_skip=False
    )
    ours = forward(Layer(2, True), q, k, v, None, sliding_window=3)[0]
    expected = sdpa_attention_forward(Layer(2, True), q, k, v, mask)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=max(1e-12, 2 * torch.finfo(dtype).eps))
    assert stats() == (1, 0, {})


def test_a_window_of_a_call_that_is_left_to_transformers() -> None:
    q, k, v = of_large_heads()
    mask = sdpa_mask(
        2, 6, 6, mask_function=sliding_window_causal_mask_function(3), allow_is_causal_skip=False
    )
    with pytest.warns(UserWarning, match="head_dim above 256"):
        left = forward(Layer(2, True), q, k, v, None, sliding_window=3)[0]
    close(left, sdpa_attention_forward(Layer(2, True), q, k, v, mask)[0])


@pytest.mark.parametrize("masked", ["none", "causal", "bool", "added"])
def test_position_bias(masked: str) -> None:
    q, k, v = qkv()
    visible = torch.rand(2, 1, 6, 6) < 0.7
    visible[..., 0] = True
    mask = {
        "none": None,
        "causal": None,
        "bool": visible,
        "added": torch.where(visible, torch.randn(2, 1, 6, 6).double(), torch.finfo(torch.float64).min),
    }[masked]
    biases = [torch.randn(1, 4, 6, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    biases[1].data.copy_(biases[0].data)
    layer = Layer(2, masked == "causal")
    ours = forward(layer, q, k, v, mask, position_bias=biases[0])[0]
    theirs = sdpa_attention_forward(layer, q, k, v, mask, position_bias=biases[1])[0]
    close(ours, theirs)
    for o in (ours, theirs):
        (o * o).sum().backward()
    close(biases[0].grad, biases[1].grad)


def test_shapes_of_masks() -> None:
    q, k, v = qkv()
    mask = torch.rand(6, 6) < 0.7
    mask[:, 0] = True
    for own in (
        mask,
        mask[None],
        mask[None, None],
        mask[None, None].expand(2, 4, 6, 6),
        mask[:1],
        mask[:, :1],
    ):
        close(forward(Layer(2), q, k, v, own)[0], sdpa_attention_forward(Layer(2), q, k, v, own)[0])
    with pytest.raises(AttentionError, match="must broadcast"):
        forward(Layer(2), q, k, v, torch.ones(6, 5, dtype=torch.bool))


@given(
    queries=st.integers(1, 70),
    keys=st.integers(1, 90),
    offset=st.integers(0, 20),
    window=st.integers(1, 40),
    kind=st.sampled_from(["causal", "window", "around", "all"]),
    groups=st.sampled_from([1, 2, 4]),
    padding=st.sampled_from(["none", "left", "right", "holes"]),
    form=st.sampled_from(["bool", "added", "lazy"]),
    dtype=st.sampled_from([torch.float64, torch.bfloat16, torch.float16]),
)
def test_masks_of_all_kinds(queries, keys, offset, window, kind, groups, padding, form, dtype) -> None:
    """Against PyTorch's function with the whole mask, in float64. A row that sees no key is 0 there too."""
    torch.manual_seed(queries * keys)
    q, k, v = (x.to(dtype) for x in qkv(queries, keys, 4 // groups))
    place = torch.arange(keys)
    seen = {
        "none": None,
        "left": torch.stack([place >= keys // 3, place >= 0]),
        "right": torch.stack([place < 1 + keys // 2, place >= 0]),
        "holes": torch.rand(2, keys) < 0.7,
    }[padding]
    function = mask_function(kind, window)
    of = {
        "batch_size": 2, "q_length": queries, "kv_length": keys, "q_offset": offset,
        "mask_function": function, "attention_mask": seen,
    }  # fmt: skip
    true = sdpa_mask(**of, allow_is_causal_skip=False)
    mask = {"bool": lambda **_: true, "added": eager_mask, "lazy": lazy_mask}[form](**of, dtype=dtype)
    inputs = [
        [x.detach().clone().to(as_).requires_grad_() for x in (q, k, v)] for as_ in (dtype, torch.float64)
    ]
    outputs = [
        forward(Layer(groups), *inputs[0], mask)[0],
        sdpa_attention_forward(Layer(groups), *inputs[1], true)[0],
    ]
    roundings = 1e-12 if dtype is torch.float64 else 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=roundings, atol=roundings)
    for o in outputs:
        (o * torch.linspace(-1, 1, o.numel(), dtype=torch.float64).view(o.shape)).sum().backward()
    for a, b in zip(*inputs, strict=True):
        within = 100 * roundings if dtype is torch.float64 else 8 * roundings
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=within, atol=within)


def test_other_devices_are_left_to_transformers() -> None:
    q, k, v = (x.to("meta") for x in qkv())
    with pytest.warns(UserWarning, match="tensors on meta"):
        assert forward(Layer(2), q, k, v, None)[0].shape == (2, 6, 4, 8)


@pytest.mark.parametrize("kind", ["bool", "added", "of keys"])
@pytest.mark.parametrize("refill", ["indexing", "numpy", "data", "detach", "set_", "from_numpy"])
def test_a_mask_that_is_refilled_is_looked_at_again(refill: str, kind: str) -> None:
    """Most of these ways do not change the tensor's version, and only set_ changes its address."""
    q, k, v = qkv()
    old = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    new = torch.ones(1, 1, 6, 6, dtype=torch.bool).triu(-2)
    if kind == "of keys":
        old, new = old[:, :, 3:4], new[:, :, 3:4]
    lowest = torch.finfo(torch.float64).min
    given_ = [
        torch.zeros(x.shape).double().masked_fill(~x, lowest) if kind == "added" else x for x in (old, new)
    ]
    numbers = given_[1]
    buffer = given_[0].numpy().copy()
    mask = torch.from_numpy(buffer) if refill == "from_numpy" else given_[0].clone()
    layer = Layer(2)
    for _ in range(2):  # as layers share a mask
        close(forward(layer, q, k, v, mask)[0], sdpa_attention_forward(layer, q, k, v, old)[0])
    {
        "indexing": lambda: mask.__setitem__(..., numbers),
        "numpy": lambda: mask.numpy().__setitem__(..., numbers.numpy()),
        "data": lambda: mask.data.copy_(numbers),
        "detach": lambda: mask.detach().copy_(numbers),
        "set_": lambda: mask.set_(numbers.clone()),
        "from_numpy": lambda: buffer.__setitem__(..., numbers.numpy()),
    }[refill]()
    close(forward(layer, q, k, v, mask)[0], sdpa_attention_forward(layer, q, k, v, new)[0])


def test_rows_that_see_no_key_are_zero_as_with_sdpa() -> None:
    q, k, v = qkv()
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[:, :2] = False
    added = torch.zeros(6, 6).double().masked_fill(~mask, torch.finfo(torch.float64).min)
    o = forward(Layer(2), q, k, v, added)[0]
    assert not o[:, :2].any()
    close(o, sdpa_attention_forward(Layer(2), q, k, v, mask)[0])


@pytest.mark.parametrize("masked", ["none", "causal", "bool", "added", "lazy"])
def test_keys_that_queries_select(masked: str) -> None:
    q, k, v = qkv()
    indices = torch.stack([torch.stack([torch.randperm(6)[:3] for _ in range(6)]) for _ in range(2)])
    indices[..., 0] = 0  # no query is left without a key
    selected = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    for b, i in ((b, i) for b in range(2) for i in range(6)):
        selected[b, 0, i, indices[b, i]] = True
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    lowest = torch.finfo(torch.float64).min
    mask = {
        "bool": causal,
        "added": torch.zeros(1, 1, 6, 6).double().masked_fill(~causal, lowest),
        "lazy": lazy_mask(2, 6, 6, dtype=torch.float64),
    }.get(masked)
    layer = Layer(2, masked == "causal")
    ours = forward(layer, q, k, v, mask, indices=indices)[0]
    true = selected if masked == "none" else selected & causal
    close(ours, sdpa_attention_forward(layer, q, k, v, true)[0])
    with pytest.warns(UserWarning, match="head_dim above 256"):
        left = forward(layer, *of_large_heads(), mask, indices=indices, scaling=8**-0.5)[0]
    close(left[..., :8], ours)
    assert not left[..., 8:].any()


def test_keys_that_are_selected_in_blocks_are_not_ignored() -> None:
    q, k, v = qkv()
    with pytest.raises(UnsupportedError, match="Layer says by block_indices"):
        forward(Layer(2), q, k, v, None, block_indices=torch.zeros(2, 1, 6, 1, dtype=torch.int64))


def test_sinks_for_each_query_are_left_to_the_eager_function() -> None:
    theirs = pytest.importorskip("transformers.models.inkling2.modeling_inkling2")
    q, k, v = qkv()
    sinks = torch.randn(2, 4, 6, 1, dtype=torch.float64)

    class OfTheirs(Layer):
        __module__ = theirs.__name__

    layer = OfTheirs(2, False)
    with pytest.warns(UserWarning, match="sinks that differ by query"):
        ours = forward(layer, q, k, v, None, scaling=0.3, sinks=sinks)[0]
    scores = torch.cat([0.3 * q @ k.repeat_interleave(2, 1).mT, sinks], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(
        ours, (scores @ v.repeat_interleave(2, 1)).transpose(1, 2), rtol=1e-5, atol=1e-5
    )
    assert stats().forwards == 0


def test_dropout_in_training_only() -> None:
    q, k, v = qkv()
    layer = Layer(2, False)
    plain = forward(layer, q, k, v, None)[0]
    close(forward(layer, q, k, v, None, dropout=0.5)[0], plain)
    layer.train()
    torch.manual_seed(3)
    dropped = forward(layer, q, k, v, None, dropout=0.5)[0]
    assert not torch.allclose(dropped, plain)
    torch.manual_seed(3)
    assert torch.equal(forward(layer, q, k, v, None, dropout=0.5)[0], dropped)
    many = torch.stack([forward(layer, q, k, v, None, dropout=0.5)[0] for _ in range(2000)]).mean(0)
    torch.testing.assert_close(many, plain, rtol=0, atol=0.2)


def test_attention_weights_are_none_and_it_is_said() -> None:
    huggingface_attention._warn_of_weights.cache_clear()
    q, k, v = qkv()
    with pytest.warns(UserWarning, match="output_attentions=True gives None"):
        assert forward(Layer(2), q, k, v, None, output_attentions=True)[1] is None


def test_a_model_that_is_asked_for_weights() -> None:
    huggingface_attention._warn_of_weights.cache_clear()
    with default_dtype(torch.float32):
        model, inputs = CASES[0].model(), CASES[0].inputs()
    model.set_attn_implementation(NAME)
    with pytest.warns(UserWarning, match="output_attentions=True gives None"):
        output = model(**inputs, output_attentions=True)
    assert not any(output.attentions or ())


def test_a_scale_that_is_learned() -> None:
    q, k, v = qkv()
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    o = forward(Layer(2), q, k, v, None, scaling=scale)[0]
    close(o, forward(Layer(2), q, k, v, None, scaling=0.3)[0])
    o.pow(2).sum().backward()
    more, less = (
        forward(Layer(2), q, k, v, None, scaling=x)[0].pow(2).sum() for x in (0.3 + 1e-6, 0.3 - 1e-6)
    )
    assert float(scale.grad) == pytest.approx(float(more - less) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("masked", ["bool", "added", "causal"])
def test_eager_functions_are_given_what_they_add(masked: str) -> None:
    """Gemma 2's eager function with larger heads than ours may have, compared with ours."""
    with default_dtype(torch.float32):
        layer = CASES[2].model().model.layers[0].self_attn
    q, k, v = (x.float() for x in qkv(19, 19))
    large = (x.float() for x in of_large_heads(19, 19))
    seen = torch.ones(19, 19, dtype=torch.bool).tril() & torch.ones(19, 19, dtype=torch.bool).triu(-3)
    mask = {"bool": seen[None, None], "causal": None}.get(masked, torch.zeros(1, 1, 19, 19))
    if masked == "added":
        mask = mask.masked_fill(~seen, torch.finfo(torch.float32).min)
    options = {"softcap": 2.0, "scaling": 0.5, "sliding_window": 4}
    ours = forward(layer, q, k, v, mask, **options)[0]
    with pytest.warns(UserWarning, match="head_dim above 256"):
        left = forward(layer, *large, mask, **options)[0]
    torch.testing.assert_close(left[..., :8], ours)
    close(ours, forward(layer, q, k, v, seen, softcap=2.0, scaling=0.5)[0])


def test_sinks_of_a_model_without_an_eager_function() -> None:
    with pytest.raises(UnsupportedError, match="no eager_attention_forward"):
        forward(Layer(2), *of_large_heads(), None, s_aux=torch.zeros(4))
    reset_stats()
