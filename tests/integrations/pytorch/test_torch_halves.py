"""bfloat16 and float16 tensors: exactness beside PyTorch's plain formula, dtypes of results, no copies."""

from __future__ import annotations

import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_halves import HALVES, assert_accurate
from helpers.torch_tensors import normal
from torch.nn.attention.bias import causal_lower_right

from flashbench.arguments import bfloat16
from flashbench.errors import AttentionError
from flashbench.integrations.torch import (
    attention,
    flashbench_attention,
    ops,
    scaled_dot_product_attention,
    stats,
)
from flashbench.integrations.torch.functional import torch_sdpa
from flashbench.integrations.torch.options import Options

F = torch.nn.functional
EVERY_HALF = pytest.mark.parametrize("dtype", HALVES, ids=str)
EVERY_ENGINE = pytest.mark.parametrize("engine", ["flash", "standard"])


def qkv(dtype: Any, rows: int = 7, keys: int = 9, *, kv_heads: int = 4, d: int = 8) -> list[Any]:
    shapes = (2, 4, rows, d), (2, kv_heads, keys, d), (2, kv_heads, keys, d)
    return [normal(*shape, seed=seed).to(dtype) for seed, shape in enumerate(shapes)]


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of the tensors, of the call
    "full": ({}, {}),
    "causal": ({"rows": 90}, {"is_causal": True}),
    "shared heads": ({"kv_heads": 2}, {"enable_gqa": True}),
    "one key head": ({"kv_heads": 1, "d": 128}, {"enable_gqa": True, "is_causal": True}),
    "head_dim 256": ({"d": 256}, {}),
    "odd sizes": ({"rows": 67, "keys": 51, "d": 33}, {"scale": 0.4}),
    "one query": ({"rows": 1, "keys": 300, "d": 64}, {}),
    "bool mask": ({}, {"attn_mask": normal(2, 1, 60, 90, seed=5) > -0.5}),
    "float32 mask": ({}, {"attn_mask": normal(4, 60, 90, seed=5, dtype=torch.float32)}),
    "mask of its dtype": ({}, {"attn_mask": normal(2, 1, 1, 90, seed=5)}),
}


@EVERY_ENGINE
@EVERY_HALF
@pytest.mark.parametrize("name", CALLS)
def test_errors_beside_those_of_the_plain_formula(name: str, dtype: Any, engine: str) -> None:
    sizes, options = CALLS[name]
    leaves = qkv(dtype, **({"rows": 60, "keys": 90, "d": 64} | sizes))
    options = dict(options)
    mask = options.pop("attn_mask", None)
    if name == "mask of its dtype":
        mask = mask.to(dtype)
    if mask is not None and mask.is_floating_point():
        leaves.append(mask)

    def call(function: Any, q: Any, k: Any, v: Any, own: Any = mask, **more: Any) -> Any:
        return function(q, k, v, own, **options, **more)

    assert_accurate(
        lambda *leaves: call(scaled_dot_product_attention, *leaves, engine=engine),
        lambda *leaves: call(torch_sdpa, *leaves),
        leaves,
    )
    assert stats() == (2, 1, {})


@EVERY_HALF
@pytest.mark.parametrize("size", [5.0, 100.0])
def test_large_logits(size: float, dtype: Any) -> None:
    q, k, v = qkv(dtype, 70, 90, d=64)
    q = (q * size).to(dtype)
    assert_accurate(scaled_dot_product_attention, torch_sdpa, [q, k, v])


def test_products_beyond_the_range_of_float16() -> None:
    """q k is up to 300 * 300 * 64, the largest float16 is 65504."""
    q, k, v = (x * size for x, size in zip(qkv(torch.float16, d=64), (300.0, 300.0, 1.0), strict=True))
    expected = torch_sdpa(q.double(), k.double(), v.double())
    assert ((q.double() @ k.double().mT).abs() > 65504).any()
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v).double(), expected, rtol=1e-3, atol=1e-3)


@EVERY_HALF
@EVERY_ENGINE
def test_sums_of_many_keys_do_not_saturate(engine: str, dtype: Any) -> None:
    """A running sum of 1/4096 in bfloat16 stops growing at 1/16. So does one of dv."""
    q, k = torch.zeros(1, 1, 4096, 16, dtype=dtype), torch.zeros(1, 1, 4096, 16, dtype=dtype)
    v = torch.ones(1, 1, 4096, 8, dtype=dtype).requires_grad_()
    o = scaled_dot_product_attention(q, k, v, engine=engine)
    (dv,) = torch.autograd.grad(o, v, torch.ones_like(o))
    for found in (o, dv):
        torch.testing.assert_close(found, torch.ones_like(found), rtol=torch.finfo(dtype).eps, atol=0)


@EVERY_HALF
@EVERY_ENGINE
def test_lse_is_float32_as_that_of_pytorchs_kernel(engine: str, dtype: Any) -> None:
    q, k, v = qkv(dtype, 40, 50)
    o, lse, p = ops.attention(q, k, v, True, *Options(engine=engine))
    theirs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    assert (o.dtype, lse.dtype) == (theirs[0].dtype, theirs[1].dtype) == (dtype, torch.float32)
    assert p.dtype is torch.float32
    exact = torch.logsumexp(q.double() @ k.double().mT / 8**0.5, -1)
    torch.testing.assert_close(lse.double(), exact, rtol=0, atol=1e-5)


@EVERY_HALF
@EVERY_ENGINE
@pytest.mark.parametrize("of", ["float32", "the dtype"])
def test_gradients_have_the_dtypes_of_what_they_are_by(of: str, engine: str, dtype: Any) -> None:
    leaves = [x.requires_grad_() for x in qkv(dtype, keys=7)]
    own = torch.float32 if of == "float32" else dtype
    mask, sinks = (normal(*shape, seed=7).to(own).requires_grad_() for shape in ((7, 7), (4,)))

    def plain(q: Any, k: Any, v: Any, mask: Any, sinks: Any) -> Any:
        """In float64. A sink is one more key, whose value is 0."""
        scores = torch.cat([q @ k.mT / 8**0.5 + mask, sinks.view(1, 4, 1, 1).expand(2, -1, 7, -1)], -1)
        return torch.softmax(scores, -1)[..., :-1] @ v

    o = attention(*leaves, mask=mask, sinks=sinks, engine=engine)
    found = torch.autograd.grad(o.square().sum(), (*leaves, mask, sinks))
    assert [x.dtype for x in found] == [dtype] * 3 + [own] * 2
    doubles = [x.detach().double().requires_grad_() for x in (*leaves, mask, sinks)]
    exact = torch.autograd.grad(plain(*doubles).square().sum(), doubles)
    for actual, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps)


@EVERY_ENGINE
def test_bfloat16_without_ml_dtypes(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor needs no dtype of NumPy."""
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    bfloat16._of_ml_dtypes.cache_clear()
    q, k, v = (x.requires_grad_() for x in qkv(torch.bfloat16))
    o = attention(q, k, v, sinks=normal(4).bfloat16(), engine=engine)
    o.sum().backward()
    assert q.grad.dtype is torch.bfloat16
    with pytest.raises(ModuleNotFoundError):
        import ml_dtypes  # noqa: F401


def test_a_mask_of_the_other_half_is_refused() -> None:
    with pytest.raises(AttentionError, match="mask has dtype float16, q has bfloat16"):
        attention(*qkv(torch.bfloat16), mask=torch.zeros(7, 9, dtype=torch.float16))


def test_a_wide_mask_is_converted_once_for_all_that_share_it() -> None:
    """A mask of one row for all batches and heads stays one row when it becomes float32."""
    from flashbench.integrations.torch.arrays import widened

    mask = normal(1, 1, 1, 9).bfloat16().expand(2, 4, 7, 9)
    wide = widened(mask, torch.bfloat16)
    assert (wide.shape, wide.stride()[:3], wide.dtype) == (mask.shape, (0, 0, 0), torch.float32)
    assert torch.equal(wide, mask.float())


@EVERY_HALF
@EVERY_ENGINE
def test_negated_views(engine: str, dtype: Any) -> None:
    q, k, v = qkv(dtype)
    negated = torch._neg_view(q)
    assert negated.is_neg()
    assert torch.equal(attention(negated, k, v, engine=engine), attention(-q, k, v, engine=engine))


@EVERY_HALF
@EVERY_ENGINE
def test_dropout_drops_what_it_drops_in_float32(engine: str, dtype: Any) -> None:
    """The generator decides which pairs. With these values o is P itself."""
    q, k, _ = qkv(dtype, 33, 33)
    v = torch.eye(33).expand(2, 4, 33, 33)
    kept = []
    for kind in (dtype, torch.float32):
        torch.manual_seed(3)
        kept.append(
            scaled_dot_product_attention(q.to(kind), k.to(kind), v.to(kind), dropout_p=0.4, engine=engine)
        )
    assert torch.equal(kept[0] == 0, kept[1] == 0)
    torch.testing.assert_close(kept[0].float(), kept[1], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@EVERY_HALF
def test_causal_biases(dtype: Any) -> None:
    q, k, v = qkv(dtype, 60, 90)
    with flashbench_attention():
        o = F.scaled_dot_product_attention(q, k, v, causal_lower_right(60, 90))
    visible = torch.ones(60, 90, dtype=torch.bool).tril(30)
    expected = torch_sdpa(q.double(), k.double(), v.double(), visible)
    torch.testing.assert_close(o.double(), expected, rtol=0, atol=2 * torch.finfo(dtype).eps)
    assert stats() == (1, 0, {})


@EVERY_HALF
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_jagged_tensors(dtype: Any) -> None:
    parts = [normal(n, 2, 8, seed=n).to(dtype) for n in (3, 5)]
    x = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
    with flashbench_attention(), pytest.warns(UserWarning, match="NestedTensor"):
        o = F.scaled_dot_product_attention(x, x, x).transpose(1, 2).values()
    alone = [torch_sdpa(*[p.double().transpose(0, 1)[None]] * 3)[0].transpose(0, 1) for p in parts]
    assert o.dtype is dtype
    torch.testing.assert_close(o.double(), torch.cat(alone), rtol=0, atol=2 * torch.finfo(dtype).eps)


@EVERY_HALF
@EVERY_ENGINE
def test_transforms_are_slice_by_slice(engine: str, dtype: Any) -> None:
    many = normal(3, 1, 2, 6, 8).to(dtype)
    mask = normal(6, 6, seed=2).to(dtype)

    def call(q: Any, mask: Any = mask) -> Any:
        return attention(q, q.sin(), q.cos(), mask=mask, engine=engine)

    def loss(q: Any, mask: Any) -> Any:
        return call(q, mask).sin().sum()

    assert torch.equal(torch.func.vmap(call)(many), torch.stack([call(q) for q in many]))
    gradients = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(many, mask)
    for i, q in enumerate(many):
        leaves = [x.clone().requires_grad_() for x in (q, mask)]
        alone = torch.autograd.grad(loss(*leaves), leaves)
        for together, expected in zip(gradients, alone, strict=True):
            assert together.dtype is dtype
            torch.testing.assert_close(together[i], expected)


@EVERY_HALF
@EVERY_ENGINE
def test_pytorchs_layers(engine: str, dtype: Any) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True, dtype=dtype)
    x = normal(2, 30, 32).to(dtype)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(30, dtype=dtype)
    expected = layer(x, src_mask=mask)
    with flashbench_attention(engine):
        actual = layer(x, src_mask=mask)
        actual.sum().backward()
    torch.testing.assert_close(actual, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert stats() == (1, 1, {})


def test_pytorchs_own_products_in_the_same_threads() -> None:
    """Both may use the CPU's tile registers: neither may change the other's results."""
    a, b = normal(256, 256).bfloat16(), normal(256, 256, seed=1).bfloat16()
    leaves = [x.requires_grad_() for x in qkv(torch.bfloat16, 200, 200, d=64)]

    def ours() -> list[Any]:
        o = scaled_dot_product_attention(*leaves, is_causal=True)
        return [o.detach(), *torch.autograd.grad(o.sum(), leaves)]

    product, expected = a @ b, ours()
    for _ in range(10):
        assert torch.equal(a @ b, product)
        assert all(torch.equal(x, y) for x, y in zip(ours(), expected, strict=True))
