"""The documented classes: names and defaults, gradients, and refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.support import assert_close

from flashbench.errors import AttentionError
from flashbench.functional import attention, attention_backward
from flashbench.modules import (
    AttentionMode,
    FlashAttention,
    FlashAttentionConfig,
    ModelConfig,
    MultiHeadAttention,
    MultiHeadAttentionConfig,
    ProjectionWeights,
)
from flashbench.problem import AttentionProblem

CLOSE = 1e-12


def defaults(config: type) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }


def test_defaults_are_the_documented_ones() -> None:
    assert defaults(FlashAttentionConfig) == {
        "block_size": 64,
        "scale": None,
        "causal": False,
        "use_simd": True,
        "dropout": 0.0,
    }
    assert defaults(MultiHeadAttentionConfig) == {
        "num_kv_heads": None,
        "mode": AttentionMode.FLASH,
        "flash_block_size": 64,
        "dropout": 0.0,
        "causal": False,
    }
    assert defaults(ModelConfig) == {
        "use_flash_attention": True,
        "flash_block_size": 64,
        "flash_causal": False,
    }


@pytest.mark.parametrize("use_simd", [True, False])
def test_flash_attention_is_attention_with_its_settings(use_simd: bool) -> None:
    q, k, v, do = AttentionProblem.of(21, seqlen_k=30, num_heads=2, head_dim=8).make_inputs()
    module = FlashAttention(FlashAttentionConfig(block_size=16, scale=0.3, causal=True, use_simd=use_simd))
    o, lse = module.forward(q, k, v, return_lse=True)
    expected = attention(q, k, v, softmax_scale=0.3, causal=True, return_lse=True, engine="numpy")
    assert_close(o, expected.o, CLOSE)
    assert_close(lse, expected.lse, CLOSE)
    gradients = attention_backward(do, q, k, v, *expected, softmax_scale=0.3, causal=True, engine="numpy")
    for ways in (module.backward(do), FlashAttention(module.config).backward(do, q, k, v, o, lse)):
        for actual, exact in zip(ways, gradients, strict=True):
            assert_close(actual, exact, CLOSE)


def test_flash_attention_takes_one_head_in_three_dimensions() -> None:
    q, k, v, do = (x[:, 0] for x in AttentionProblem.of(5, batch=2, head_dim=4).make_inputs())
    module = FlashAttention()
    assert module.forward(q, k, v).shape == (2, 5, 4)
    assert module.backward(do).dq.shape == (2, 5, 4)


def test_flash_attention_goes_back_through_its_last_forward() -> None:
    module = FlashAttention()
    q, k, v, do = AttentionProblem.of(5, head_dim=4).make_inputs(1)
    module.forward(*AttentionProblem.of(9, head_dim=4).make_inputs()[:3])
    module.forward(q, k, v)
    first = module.backward(do)
    assert np.array_equal(first.dq, module.backward(do).dq)
    assert first.dq.shape == q.shape


def test_backward_without_a_forward_says_so() -> None:
    x = np.zeros((1, 2, 4))
    with pytest.raises(AttentionError, match="no forward to go back through"):
        FlashAttention().backward(x)
    with pytest.raises(AttentionError, match="do alone, or do with all of q, k, v, o and lse"):
        FlashAttention().backward(x, x, x)
    with pytest.raises(AttentionError, match="no forward to go back through"):
        MultiHeadAttention(MultiHeadAttentionConfig(4, 2)).backward(x)


def test_backward_checks_do() -> None:
    x = np.zeros((1, 2, 4))
    flash = FlashAttention()
    flash.forward(x, x, x)
    with pytest.raises(AttentionError, match=r"do must have shape \(1, 2, 4\)"):
        flash.backward(x[:, :1])
    heads = MultiHeadAttention(MultiHeadAttentionConfig(4, 2))
    heads.forward(x, x, x)
    with pytest.raises(
        AttentionError, match=r"do must be float64 of shape \(1, 2, 4\), as o is, not float32"
    ):
        heads.backward(x.astype(np.float32))


WIDTH, HEADS, KEY_HEADS = 12, 6, 2


def random_weights(seed: int) -> ProjectionWeights:
    rng = np.random.default_rng(seed)
    narrow = WIDTH // HEADS * KEY_HEADS
    widths = (WIDTH, narrow, narrow, WIDTH)
    return ProjectionWeights(
        *(rng.standard_normal((WIDTH, width)) / np.sqrt(WIDTH) for width in widths),
        *(rng.standard_normal(width) for width in widths),
    )


@pytest.mark.parametrize("mode", AttentionMode)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_multi_head_attention_agrees_with_pytorch_forward_and_backward(
    mode: AttentionMode, causal: bool
) -> None:
    torch = pytest.importorskip("torch")
    weights = random_weights(0)
    rng = np.random.default_rng(1)
    q, k, v, do = (rng.standard_normal((3, 7, WIDTH)) for _ in range(4))
    module = MultiHeadAttention(
        MultiHeadAttentionConfig(WIDTH, HEADS, num_kv_heads=KEY_HEADS, mode=mode, causal=causal), weights
    )

    tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v, *weights)]
    tq, tk, tv, wq, wk, wv, wo, bq, bk, bv, bo = tensors
    heads = [
        (x @ w + b).unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2)
        for x, w, b in ((tq, wq, bq), (tk, wk, bk), (tv, wv, bv))
    ]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        o = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=causal, enable_gqa=True)
    o = o.transpose(1, 2).flatten(2) @ wo + bo
    expected = torch.autograd.grad(o, tensors, torch.from_numpy(do))

    assert_close(module.forward(q, k, v), o.detach().numpy(), CLOSE)
    dq, dk, dv, dweights = module.backward(do)
    for actual, exact in zip((dq, dk, dv, *dweights), expected, strict=True):
        assert_close(actual, exact.numpy(), CLOSE)


def test_without_weights_heads_are_only_split_and_merged() -> None:
    q, k, v, do = (np.random.default_rng(2).standard_normal((2, 5, 8)) for _ in range(4))
    module = MultiHeadAttention(MultiHeadAttentionConfig(8, 2))
    o = module.forward(q, k, v)
    for head in (slice(0, 4), slice(4, 8)):
        assert_close(o[..., head], attention(q[..., head], k[..., head], v[..., head], engine="numpy"), CLOSE)
    gradients = module.backward(do)
    assert gradients.weights == ProjectionWeights()
    assert gradients.dk.shape == k.shape


def test_biases_and_matrices_are_optional_one_by_one() -> None:
    x = np.random.default_rng(3).standard_normal((1, 5, 8))
    bias = np.arange(8.0)
    plain = MultiHeadAttention(MultiHeadAttentionConfig(8, 2))
    module = MultiHeadAttention(plain.config, ProjectionWeights(b_o=bias))
    assert_close(module.forward(x, x, x), plain.forward(x, x, x) + bias, CLOSE)
    weights = module.backward(np.ones_like(x)).weights
    assert_close(weights.b_o, np.full(8, 5.0), CLOSE)
    assert weights._replace(b_o=None) == ProjectionWeights()


def test_key_heads_without_projection_come_as_wide_as_they_are() -> None:
    module = MultiHeadAttention(MultiHeadAttentionConfig(WIDTH, HEADS, num_kv_heads=KEY_HEADS))
    q, k = np.ones((1, 3, WIDTH)), np.ones((1, 3, 4))
    assert module.forward(q, k, k).shape == q.shape
    with pytest.raises(AttentionError, match=r"k must have shape \(batch, seqlen, 4\), not \(1, 3, 12\)"):
        module.forward(q, q, q)


def test_nothing_is_kept_when_not_asked_to() -> None:
    module = MultiHeadAttention(MultiHeadAttentionConfig(4, 2, mode=AttentionMode.STANDARD))
    x = np.ones((1, 3, 4))
    module.forward(x, x, x)
    module.forward(x, x, x, keep=False)
    with pytest.raises(AttentionError, match="no forward"):
        module.backward(x)


def test_memory_usage_is_what_the_engines_say() -> None:
    module = MultiHeadAttention(MultiHeadAttentionConfig(64 * 2, 2))
    usage = module.memory_usage(1, 1024)
    assert usage.standard_bytes == pytest.approx(2 * 8 * 1024**2, rel=0.02)
    assert usage.savings == usage.standard_bytes / usage.flash_bytes > 16
    assert module.memory_usage(1, 1024, dtype="float32").standard_bytes < usage.standard_bytes
    both = module.memory_usage(1, 1024, direction="fwd_bwd")
    assert both.standard_bytes == pytest.approx(2 * usage.standard_bytes, rel=0.02)
    with pytest.raises(AttentionError, match="seqlen_q must be at least 1, not 0"):
        module.memory_usage(1, 0)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (FlashAttentionConfig, {"block_size": 0}, "block_size must be at least 1, not 0"),
        (FlashAttentionConfig, {"scale": float("nan")}, "scale must be finite, not nan"),
        (FlashAttentionConfig, {"causal": "yes"}, "causal must be True or False, not 'yes'"),
        (FlashAttentionConfig, {"use_simd": 1}, "use_simd must be True or False, not 1"),
        (FlashAttentionConfig, {"dropout": 0.1}, "dropout must be 0.0 in this version"),
        (MultiHeadAttentionConfig, {"d_model": 10}, "d_model (10) must be a multiple of num_heads (4)"),
        (MultiHeadAttentionConfig, {"d_model": None}, "d_model must be a whole number, not None"),
        (MultiHeadAttentionConfig, {"num_heads": 0}, "num_heads must be at least 1, not 0"),
        (MultiHeadAttentionConfig, {"d_model": 2048}, "must be at most 256, not 2048 / 4"),
        (
            MultiHeadAttentionConfig,
            {"num_kv_heads": 3},
            "num_heads (4) must be a multiple of num_kv_heads (3)",
        ),
        (MultiHeadAttentionConfig, {"mode": "flash"}, "AttentionMode.STANDARD, not 'flash'"),
        (MultiHeadAttentionConfig, {"flash_block_size": 1.5}, "must be a whole number or None, not 1.5"),
        (MultiHeadAttentionConfig, {"dropout": 0.5}, "dropout must be 0.0 in this version"),
        (ModelConfig, {"use_flash_attention": 1}, "use_flash_attention must be True or False, not 1"),
        (ModelConfig, {"flash_block_size": -1}, "flash_block_size must be at least 1, not -1"),
        (ModelConfig, {"flash_causal": None}, "flash_causal must be True or False, not None"),
    ],
)
def test_a_wrong_setting_is_named(config: type, arguments: dict[str, Any], message: str) -> None:
    needed = {"d_model": 64, "num_heads": 4} if config is MultiHeadAttentionConfig else {}
    with pytest.raises(AttentionError) as error:
        config(**{**needed, **arguments})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (ProjectionWeights(w_q=np.ones((8, 4))), "w_q must have shape (8, 8), not (8, 4)"),
        (ProjectionWeights(b_k=np.ones(8)), "b_k must have shape (4,), not (8,)"),
        ([np.ones((8, 8))], "weights must be ProjectionWeights or None, not list"),
        (ProjectionWeights(w_v=[[1.0]]), "w_v must be a NumPy array"),
    ],
)
def test_wrong_weights_are_named(weights: Any, message: str) -> None:
    with pytest.raises(AttentionError) as error:
        MultiHeadAttention(MultiHeadAttentionConfig(8, 4, num_kv_heads=2), weights)
    assert message in str(error.value)


def test_weights_and_inputs_must_have_one_dtype() -> None:
    module = MultiHeadAttention(MultiHeadAttentionConfig(8, 4), ProjectionWeights(w_q=np.eye(8)))
    x = np.ones((1, 2, 8), dtype=np.float32)
    with pytest.raises(AttentionError, match="q has dtype float32, w_q has float64: they must be the same"):
        module.forward(x, x, x)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mode", AttentionMode)
def test_multi_head_attention_in_16_bits_is_that_of_float32_within_its_rounding(
    mode: AttentionMode, dtype: type
) -> None:
    config = MultiHeadAttentionConfig(d_model=16, num_heads=4, num_kv_heads=2, mode=mode, causal=True)
    rng = np.random.default_rng(0)
    shapes = ((16, 16), (16, 8), (16, 8), (16, 16), (16,), (8,), (8,), (16,))
    weights = ProjectionWeights(*((rng.standard_normal(shape) / 4).astype(dtype) for shape in shapes))
    x, do = rng.standard_normal((2, 2, 9, 16)).astype(dtype)
    narrow = MultiHeadAttention(config, weights)
    wide = MultiHeadAttention(config, ProjectionWeights(*(w.astype(np.float32) for w in weights)))
    o, expected = narrow.forward(x, x, x), wide.forward(*[x.astype(np.float32)] * 3)
    found, right = narrow.backward(do), wide.backward(do.astype(np.float32))
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    pairs = zip((o, *found[:3], *found.weights), (expected, *right[:3], *right.weights), strict=True)
    for actual, wanted in pairs:
        assert actual.dtype == np.dtype(dtype)
        # Projections and attention round numbers of about 1, or as large as the result. db_k is a sum of such
        # numbers, and 0 but for rounding.
        bound = 8 * unit * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(actual.astype(np.float32), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_flash_attention_in_16_bits_goes_back_through_its_last_forward(dtype: type) -> None:
    q, k, v, do = np.random.default_rng(0).standard_normal((4, 1, 2, 9, 8)).astype(dtype)
    module = FlashAttention(FlashAttentionConfig(causal=True))
    o, lse = module.forward(q, k, v, return_lse=True)
    assert (o.dtype, lse.dtype) == (np.dtype(dtype), np.float32)
    gradients = module.backward(do)
    again = module.backward(do, q, k, v, o, lse)
    for one, other, like in zip(gradients, again, (q, k, v), strict=True):
        assert one.dtype == like.dtype
        np.testing.assert_array_equal(one, other)


def test_builders_change_a_copy_and_check_it() -> None:
    original = ModelConfig()
    changed = original.with_flash_attention(False).with_flash_block_size(128).with_flash_causal(True)
    assert changed == ModelConfig(False, 128, True)
    assert original == ModelConfig()
    with pytest.raises(AttentionError, match="flash_block_size must be at least 1, not 0"):
        original.with_flash_block_size(0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        original.flash_causal = True


def test_a_model_config_configures_its_attention() -> None:
    config = ModelConfig().with_flash_block_size(32).with_flash_causal(True)
    assert config.attention_config(64, 4) == MultiHeadAttentionConfig(
        64, 4, mode=AttentionMode.FLASH, flash_block_size=32, causal=True
    )
    assert config.with_flash_attention(False).attention_config(64, 4).mode is AttentionMode.STANDARD
