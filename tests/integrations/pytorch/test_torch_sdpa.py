"""flashbench's scaled_dot_product_attention equals PyTorch's: outputs and gradients of all accepted calls.

In half precision it is as near to the float64 answer as a computation in the dtype is.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_halves import HALVES, assert_close_to, in_the_dtype_itself
from helpers.torch_tensors import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.integrations.torch import scaled_dot_product_attention, stats
from flashbench.integrations.torch.functional import torch_sdpa

ENGINES = ("flash", "standard")
# For outputs and gradients of order 1, with sums over up to 40 rows.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
DTYPES = (*TOLERANCE, *HALVES)


def assert_same(q: Any, k: Any, v: Any, *, engine: str = "flash", **options: Any) -> None:
    """Assert that outputs and all gradients equal PyTorch's, and that flashbench computed them."""
    mask = options.pop("attn_mask", None)
    tensors = [q, k, v] + ([mask] if mask is not None and mask.is_floating_point() else [])
    do = None

    def computed(function: Callable[..., Any], dtype: Any = None, **more: Any) -> list[Any]:
        nonlocal do
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors]  # of the same strides
        o = function(*leaves[:3], leaves[3] if len(leaves) > 3 else mask, **options, **more)
        if do is None:
            do = torch.randn(o.shape, dtype=o.dtype, generator=torch.Generator().manual_seed(1))
        return [o.detach(), *torch.autograd.grad(o, leaves, do.to(o.dtype))]

    before = stats()
    found = computed(scaled_dot_product_attention, engine=engine)
    after = stats()
    assert after.forwards == before.forwards + 1
    assert after.backwards == before.backwards + 1
    assert after.fallbacks == before.fallbacks
    with in_the_dtype_itself() if q.dtype in HALVES else contextlib.nullcontext():
        plain = computed(torch_sdpa)
    assert [x.dtype for x in found] == [x.dtype for x in plain]
    if q.dtype in HALVES:
        terms = v.abs().max().item()
        assert_close_to(found, computed(torch_sdpa, torch.float64), plain, few=3, terms=terms)
        return
    for actual, expected in zip(found, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[q.dtype])


def qkv(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...] | None = None, d_v: int | None = None, **more: Any
) -> tuple[Any, Any, Any]:
    k_shape = k_shape or q_shape
    v_shape = (*k_shape[:-1], d_v or k_shape[-1])
    return normal(*q_shape, **more), normal(*k_shape, seed=2, **more), normal(*v_shape, seed=3, **more)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("before", [(), (3,), (2, 3), (2, 1, 3), (1, 2, 2, 3)])
def test_any_number_of_dimensions(engine: str, dtype: Any, is_causal: bool, before: tuple[int, ...]) -> None:
    assert_same(*qkv((*before, 9, 8), dtype=dtype), engine=engine, is_causal=is_causal)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(5, 11), (11, 5), (1, 7), (7, 1)])
def test_causal_is_top_left(engine: str, seqlen_q: int, seqlen_k: int) -> None:
    assert_same(*qkv((2, 2, seqlen_q, 4), (2, 2, seqlen_k, 4)), engine=engine, is_causal=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize(
    "shape",
    [(6, 9), (1, 9), (6, 1), (3, 6, 9), (1, 6, 9)]
    + [tuple(n if keep else 1 for n, keep in zip((2, 3, 6, 9), kept, strict=True))
       for kept in itertools.product((False, True), repeat=4)],
)  # fmt: skip
def test_masks_of_every_shape_that_broadcasts(engine: str, kind: str, shape: tuple[int, ...]) -> None:
    mask = normal(*shape, seed=5)
    if kind == "bool":
        mask = mask > -0.5
        mask[..., 0] |= shape[-1] > 1  # another test has rows that see no key
        if shape[-1] == 1:
            mask[:] = True
    assert_same(*qkv((2, 3, 6, 4), (2, 3, 9, 4)), attn_mask=mask, engine=engine)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize(
    "shape", [(5, 5), (3, 5, 5), (2, 3, 5, 5), (2, 1, 1, 5), (4, 2, 3, 5, 5), (4, 1, 1, 5, 1)]
)
def test_masks_of_five_dimensions(kind: str, shape: tuple[int, ...]) -> None:
    mask = normal(*shape, seed=5)
    if kind == "bool":
        mask = mask > -0.5
        mask[..., 0] = True
    assert_same(*qkv((4, 2, 3, 5, 4)), attn_mask=mask)


@pytest.mark.parametrize("before", [(), (3,)])
def test_masks_of_fewer_dimensions(before: tuple[int, ...]) -> None:
    mask = normal(5, 5, seed=5)
    assert_same(*qkv((*before, 5, 4)), attn_mask=mask)
    assert_same(*qkv((*before, 5, 4)), attn_mask=mask.expand(*before, 5, 5))


def test_a_float32_mask_of_float64_queries() -> None:
    assert_same(*qkv((2, 3, 5, 4)), attn_mask=normal(5, 5, dtype=torch.float32))


def test_minus_infinity_hides() -> None:
    mask = normal(6, 9, seed=5)
    mask[:, 3:7] = -torch.inf
    q, k, v = qkv((2, 3, 6, 4), (2, 3, 9, 4))
    assert_same(q, k, v, attn_mask=mask)
    changed = v.clone()
    changed[:, :, 3:7] = 1e6
    assert torch.equal(
        scaled_dot_product_attention(q, k, v, mask), scaled_dot_product_attention(q, k, changed, mask)
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_row_that_sees_no_key_is_zero(engine: str, kind: str) -> None:
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    if kind == "float":
        mask = torch.where(mask, 0.0, -torch.inf).to(torch.float64)
    q, k, v = qkv((2, 3, 5, 4), (2, 3, 7, 4))
    assert_same(q, k, v, attn_mask=mask, engine=engine)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = scaled_dot_product_attention(*leaves, mask, engine=engine)
    assert not o[:, :, 2].any()
    dq, dk, _ = torch.autograd.grad(o.square().sum(), leaves)
    assert not dq[:, :, 2].any()
    assert torch.isfinite(dk).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("is_causal", [False, True])
def test_query_heads_share_key_heads(engine: str, kv_heads: int, is_causal: bool) -> None:
    q, k, v = qkv((2, 6, 5, 4), (2, kv_heads, 7, 4))
    assert_same(q, k, v, enable_gqa=True, is_causal=is_causal, engine=engine)
    assert_same(q[0], k[0], v[0], enable_gqa=True, is_causal=is_causal, engine=engine)


@pytest.mark.parametrize("scale", [0.3, 1, 0.0, -0.5, 1e-3])
def test_scale(scale: float) -> None:
    assert_same(*qkv((2, 2, 5, 4)), scale=scale)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_what_causality_hides_stays_hidden_whatever_the_scale(scale: float) -> None:
    """PyTorch's function multiplies minus infinity by the scale."""
    q, k, v = qkv((2, 2, 5, 4))
    weights = (scale * q @ k.transpose(2, 3)).exp().tril()
    expected = weights / weights.sum(-1, keepdim=True) @ v
    actual = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("d_v", [1, 3, 16])
def test_values_of_another_size(engine: str, d_v: int) -> None:
    assert_same(*qkv((2, 2, 5, 4), d_v=d_v), engine=engine)


def strided(x: Any, how: str) -> Any:
    """The same numbers in another memory layout."""
    if how == "heads last":  # as a projection's output, viewed by heads
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if how == "rows transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if how == "every other":
        return torch.stack((x, -x), -1).flatten(-2)[..., ::2]
    if how == "rows of a wider array":
        return torch.cat((x, -x), -1)[..., : x.shape[-1]]
    if how == "reversed batch":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    raise AssertionError(how)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "how", ["heads last", "rows transposed", "every other", "rows of a wider array", "reversed batch"]
)
def test_any_strides(engine: str, how: str) -> None:
    plain = qkv((2, 3, 5, 4), (2, 3, 7, 4), d_v=6)
    views = [strided(x, how) for x in plain]
    assert all(torch.equal(x, y) for x, y in zip(plain, views, strict=True))
    assert not any(x.is_contiguous() for x in views)
    assert_same(*views, engine=engine)
    assert_same(*views, engine=engine, attn_mask=strided(normal(2, 3, 5, 7), how))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_expanded_tensors(engine: str, axis: int) -> None:
    """Stride 0: a batch, heads or rows share memory, and their gradients are summed."""
    shape = [2, 3, 5, 4]
    full = tuple(shape)
    shape[axis] = 1
    leaves = [normal(*shape, seed=seed).requires_grad_() for seed in range(3)]
    do = normal(*full, seed=9)
    found = []
    for function in (lambda *x: scaled_dot_product_attention(*x, engine=engine), torch_sdpa):
        o = function(*(x.expand(full) for x in leaves))
        found.append((o, *torch.autograd.grad(o, leaves, do)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_an_expanded_gradient_of_the_output() -> None:
    """The gradient from sum() has stride 0 in every axis."""
    leaves = [x.requires_grad_() for x in qkv((2, 3, 5, 4))]
    mine = torch.autograd.grad(scaled_dot_product_attention(*leaves).sum(), leaves)
    theirs = torch.autograd.grad(torch_sdpa(*leaves).sum(), leaves)
    for actual, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=4))[1:])
def test_gradients_of_some_inputs_only(wanted: tuple[bool, ...]) -> None:
    tensors = [*qkv((2, 3, 5, 4)), normal(3, 5, 5)]
    found = []
    for function in (scaled_dot_product_attention, torch_sdpa):
        leaves = [x.clone().requires_grad_(want) for x, want in zip(tensors, wanted, strict=True)]
        function(*leaves).square().sum().backward()
        found.append([x.grad for x in leaves])
    for actual, expected, want in zip(*found, wanted, strict=True):
        assert (actual is not None) == want
        if want:
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@st.composite
def calls(draw: st.DrawFn) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
    """Any call that flashbench accepts, with small tensors."""
    before = draw(st.lists(st.integers(1, 3), max_size=2))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    seqlen_q, seqlen_k = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    d, d_v = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from(DTYPES))
    q, k, v = (
        normal(*before, heads, rows, width, dtype=dtype, seed=seed)
        for seed, (heads, rows, width) in enumerate(
            [(kv_heads * group, seqlen_q, d), (kv_heads, seqlen_k, d), (kv_heads, seqlen_k, d_v)]
        )
    )
    # PyTorch multiplies minus infinity by the scale, so that one of 0 or less makes NaN.
    options: dict[str, Any] = {"scale": draw(st.none() | st.floats(0.01, 1.0))}
    if group > 1:
        options["enable_gqa"] = True
    full = (*before, kv_heads * group, seqlen_q, seqlen_k)
    masked = draw(st.sampled_from(["no", "causal", "bool", "float"]))
    if masked == "causal":
        options["is_causal"] = True
    elif masked != "no":
        own = [n if draw(st.booleans()) else 1 for n in full]
        mask = normal(*own[draw(st.integers(0, len(own) - 2)) :], dtype=dtype, seed=8)
        options["attn_mask"] = mask > -1.0 if masked == "bool" else mask
    if draw(st.booleans()):
        q, k, v = (x.transpose(-3, -2).contiguous().transpose(-3, -2) for x in (q, k, v))
    return (q, k, v), options


@given(call=calls(), engine=st.sampled_from(ENGINES))
@settings(max_examples=150)
def test_any_call_is_pytorchs(call: tuple[tuple[Any, Any, Any], dict[str, Any]], engine: str) -> None:
    (q, k, v), options = call
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(q, k, v, engine=engine, **options)


def test_the_output_keeps_the_order_of_heads_in_memory() -> None:
    """A model that merges its heads afterwards then copies nothing."""
    views = [x.transpose(1, 2).requires_grad_() for x in qkv((2, 7, 3, 4))]
    o = scaled_dot_product_attention(*views)
    assert o.transpose(1, 2).is_contiguous()
    for gradient in torch.autograd.grad(o.square().sum(), views):
        assert gradient.transpose(1, 2).is_contiguous()
    o = scaled_dot_product_attention(*qkv((2, 3, 7, 4)))
    assert o.is_contiguous()
