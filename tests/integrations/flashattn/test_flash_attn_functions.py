"""flash-attention's functions: signatures, exactness in wide dtypes, edges, and what is refused."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers.plain_attention import plain, visible_pairs

import flashbench
from flashbench.errors import AttentionError
from flashbench.integrations import flash_attn
from flashbench.integrations.flash_attn import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

# From flash-attention 2.8.3, names in order; `name=` has a default.
TAIL = "dropout_p=0.0 softmax_scale=None causal=False window_size=(-1,-1) softcap=0.0 alibi_slopes=None "
TAIL += "deterministic=False return_attn_probs=False"
BOUNDS = "cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
SIGNATURES = {
    "flash_attn_func": f"q k v {TAIL}",
    "flash_attn_kvpacked_func": f"q kv {TAIL}",
    "flash_attn_qkvpacked_func": f"qkv {TAIL}",
    "flash_attn_varlen_func": f"q k v {BOUNDS} {TAIL} block_table=None",
    "flash_attn_varlen_kvpacked_func": f"q kv {BOUNDS} {TAIL}",
    "flash_attn_varlen_qkvpacked_func": f"qkv cu_seqlens max_seqlen {TAIL}",
    "flash_attn_with_kvcache": (
        "q k_cache v_cache k=None v=None rotary_cos=None rotary_sin=None cache_seqlens=None "
        "cache_batch_idx=None cache_leftpad=None block_table=None softmax_scale=None causal=False "
        "window_size=(-1,-1) softcap=0.0 rotary_interleaved=True alibi_slopes=None num_splits=0 "
        "return_softmax_lse=False"
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    positional = [
        f"{p.name}={p.default}".replace(" ", "") if p.default is not p.empty else p.name
        for p in inspect.signature(getattr(flash_attn, name)).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert " ".join(positional) == SIGNATURES[name]


def made(*shape: int, dtype: Any = torch.float64, grad: bool = False) -> Any:
    return torch.randn(*shape, dtype=dtype).requires_grad_(grad)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def bounds(*lengths: int) -> Any:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_wide_dtypes_are_exact_against_the_oracle(dtype: Any, causal: bool) -> None:
    q, k, v = made(2, 37, 6, 40, dtype=dtype), *(made(2, 51, 2, 40, dtype=dtype) for _ in range(2))
    slopes = torch.rand(2, 6)
    o, lse, p = flash_attn_func(
        q, k, v, causal=causal, window_size=(20, 9), softcap=3.0, alibi_slopes=slopes, return_attn_probs=True
    )
    wide = (x.transpose(1, 2).double().numpy() for x in (q, k, v))
    exact = flashbench.attention(
        *wide, causal=causal, window=(20, 9), softcap=3.0, alibi_slopes=slopes.double().numpy(),
        return_lse=True, engine="standard",
    )  # fmt: skip
    allowed = 2e-6 if dtype is torch.float32 else 1e-13
    assert np.abs(o.transpose(1, 2).double().numpy() - exact.o).max() < allowed
    assert np.abs(lse.double().numpy() - exact.lse).max() < allowed
    assert o.dtype is lse.dtype is dtype
    assert p.shape == (0,)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_by_finite_differences(causal: bool) -> None:
    q, k, v = made(1, 5, 4, 8, grad=True), *(made(1, 7, 2, 8, grad=True) for _ in range(2))
    sink = made(4, grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: flash_attn_func(*x[:3], causal=causal, learnable_sink=x[3]), (q, k, v, sink)
    )
    rows, keys = made(9, 4, 8, grad=True), made(11, 2, 2, 8, grad=True)
    assert torch.autograd.gradcheck(
        lambda q, kv: flash_attn_varlen_kvpacked_func(q, kv, bounds(5, 4), bounds(4, 7), 5, 7, causal=causal),
        (rows, keys),
    )


def test_packed_forms_equal_separate_tensors() -> None:
    qkv = made(2, 9, 3, 4, 16)
    expected = flash_attn_func(*qkv.unbind(2), causal=True)
    assert torch.equal(flash_attn_qkvpacked_func(qkv, causal=True), expected)
    assert torch.equal(flash_attn_kvpacked_func(qkv[:, :, 0], qkv[:, :, 1:], causal=True), expected)
    rows = qkv.flatten(0, 1)
    of_rows = flash_attn_varlen_qkvpacked_func(rows, bounds(9, 9), 9, causal=True)
    torch.testing.assert_close(of_rows.view_as(expected), expected, rtol=0, atol=1e-14)


def test_a_row_without_keys_has_no_output_and_infinite_lse() -> None:
    q, k, v = made(1, 5, 2, 8), *(made(1, 2, 2, 8) for _ in range(2))
    o, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    assert not o[:, :3].any()
    assert (lse[..., :3] == math.inf).all()
    assert lse[..., 3:].isfinite().all()


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)], ids=["no query", "no key"])
def test_nothing_to_attend(sizes: tuple[int, int]) -> None:
    q, k, v = made(2, sizes[0], 2, 8, grad=True), *(made(2, sizes[1], 2, 8, grad=True) for _ in range(2))
    o, lse, _ = flash_attn_func(q, k, v, return_attn_probs=True)
    assert o.shape == q.shape
    assert not o.any()
    assert lse.shape == (2, 2, sizes[0])
    o.sum().backward()
    assert not any(x.grad.any() for x in (q, k, v))
    o = flash_attn_varlen_func(
        *(x.flatten(0, 1) for x in (q, k, v)), bounds(*[sizes[0]] * 2), bounds(*[sizes[1]] * 2), *sizes
    )
    assert o.shape == (2 * sizes[0], 2, 8)
    assert not o.any()


def test_a_sequence_without_rows_or_keys_among_others() -> None:
    q, k, v = made(7, 2, 8), *(made(6, 2, 8) for _ in range(2))
    o, lse, _ = flash_attn_varlen_func(
        q, k, v, bounds(3, 0, 4), bounds(0, 2, 4), 4, 4, return_attn_probs=True
    )
    assert not o[:3].any()
    assert (lse[:, :3] == math.inf).all()
    expected = flash_attn_func(q[None, 3:], k[None, 2:], v[None, 2:])[0]
    torch.testing.assert_close(o[3:], expected, rtol=0, atol=1e-14)


def test_pages_hold_what_lies_end_to_end() -> None:
    lengths = (300, 17, 512)
    q, k, v = made(12, 4, 16), *(made(sum(lengths), 2, 16) for _ in range(2))
    table = torch.tensor([[5, 2], [0, -7], [3, 1]], dtype=torch.int32)
    pools = [torch.full((6, 256, 2, 16), math.nan, dtype=torch.float64) for _ in range(2)]
    for pool, x in zip(pools, (k, v), strict=True):
        for pages, rows in zip(table.tolist(), x.split(lengths), strict=True):
            for page, part in zip(pages, rows.split(256), strict=False):
                pool[page, : len(part)] = part
    rest = bounds(4, 1, 7), bounds(*lengths), 7, 512
    expected = flash_attn_varlen_func(q, k, v, *rest, causal=True)
    assert torch.equal(flash_attn_varlen_func(q, *pools, *rest, causal=True, block_table=table), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_probabilities_say_what_dropout_dropped(packed: bool) -> None:
    q, k, v = made(3, 20, 4, 8), *(made(3, 300, 2, 8) for _ in range(2))
    slopes = torch.rand(3, 4, dtype=torch.float64)
    options = {"dropout_p": 0.3, "window_size": (90, 40), "alibi_slopes": slopes, "return_attn_probs": True}
    if packed:
        rest = bounds(20, 20, 20), bounds(300, 300, 300), 20, 300
        o, _, p = flash_attn_varlen_func(*(x.flatten(0, 1) for x in (q, k, v)), *rest, **options)
        o = o.view_as(q)
    else:
        o, _, p = flash_attn_func(q, k, v, **options)
    dropped = p.clamp(min=0).masked_fill(p.signbit(), 0)
    expected = torch.einsum("bhqk,bkhd->bqhd", dropped, v.repeat_interleave(2, 2)) / 0.7
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(p.abs().sum(-1), torch.ones(3, 4, 20, dtype=torch.float64), rtol=0, atol=1e-13)
    share = p[p != 0].signbit().double().mean()
    assert 0.28 < share < 0.32


def test_dropout_is_of_pytorchs_generator() -> None:
    q, k, v = (made(1, 8, 2, 8) for _ in range(3))
    torch.manual_seed(3)
    first, other = flash_attn_func(q, k, v, 0.5), flash_attn_func(q, k, v, 0.5)
    torch.manual_seed(3)
    assert torch.equal(flash_attn_func(q, k, v, 0.5), first)
    assert not torch.equal(first, other)


def test_windows_and_sinks_by_the_formula() -> None:
    q, k, v = (made(2, 12, 3, 8, dtype=torch.float32) for _ in range(3))
    lengths = torch.tensor([12, 12])
    visible = visible_pairs(lengths, lengths, 12, 12, (3, 2), causal=False)
    expected, _ = plain(q, k, v, visible)
    torch.testing.assert_close(flash_attn_func(q, k, v, window_size=(3, 2)), expected)
    of_list = flash_attn_func(q, k, v, window_size=[3, 2], softcap=None)
    assert torch.equal(of_list, flash_attn_func(q, k, v, window_size=(3, 2)))
    assert torch.equal(flash_attn_func(q, k, v, window_size=(None, -1)), flash_attn_func(q, k, v))
    sink = torch.tensor([-30.0, 0.0, 30.0])
    found = flash_attn_func(q, k, v, window_size=(3, 2), learnable_sink=sink)
    torch.testing.assert_close(found[:, :, 0], expected[:, :, 0])
    assert found[:, :, 2].abs().max() < 1e-9


@pytest.mark.parametrize("packed", [False, True])
def test_compiled_as_one_graph(packed: bool) -> None:
    q, k, v = (made(8, 2, 16, dtype=torch.float32, grad=True) for _ in range(3))

    def call(q: Any, k: Any, v: Any) -> Any:
        if packed:
            return flash_attn_varlen_func(q, k, v, bounds(3, 5), bounds(3, 5), 5, 5, causal=True)
        return flash_attn_func(q[None], k[None], v[None], causal=True)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    gradients = [torch.autograd.grad(f(q, k, v).sum(), (q, k, v)) for f in (call, compiled)]
    torch.testing.assert_close(*gradients)


def test_nothing_to_attend_in_float16_or_beside_nan() -> None:
    large = torch.full((1, 2000, 16, 64), 1.0, dtype=torch.float16)
    large[0, 0] = math.nan
    assert not flash_attn_func(large, large[:, :0], large[:, :0]).any()


@pytest.mark.parametrize(
    ("table", "words"), [([[0, -1]], "from 0 to 1"), ([[0, 2]], "from 0 to 1"), ([[0]], "2 pages")]
)
def test_pages_that_are_not_there(table: list[list[int]], words: str) -> None:
    q, pool = made(1, 2, 16), made(2, 256, 2, 16)
    rest = bounds(1), bounds(300), 1, 300
    with pytest.raises(AttentionError, match=words):
        flash_attn_varlen_func(q, pool, pool, *rest, block_table=torch.tensor(table, dtype=torch.int32))


X = torch.zeros(1, 4, 2, 8)
ROWS = torch.zeros(4, 2, 8)
REFUSED = {
    "softcap with dropout": lambda: flash_attn_func(X, X, X, 0.1, softcap=2.0),
    "dimensions": lambda: flash_attn_func(X[0], X, X),
    "dtypes differ": lambda: flash_attn_func(X, X.double(), X),
    "whole numbers": lambda: flash_attn_func(X.int(), X.int(), X.int()),
    "no tensor": lambda: flash_attn_func(X.numpy(), X, X),
    "heads": lambda: flash_attn_func(X.repeat(1, 1, 2, 1)[:, :, :3], X, X),
    "head_dim": lambda: flash_attn_func(*(torch.zeros(1, 4, 2, 257) for _ in range(3))),
    "k's head_dim": lambda: flash_attn_func(X, X[..., :4], X),
    "v's shape": lambda: flash_attn_func(X, X, X[:, :3]),
    "batch": lambda: flash_attn_func(X, X.repeat(2, 1, 1, 1), X.repeat(2, 1, 1, 1)),
    "packed": lambda: flash_attn_kvpacked_func(X, torch.zeros(1, 4, 3, 2, 8)),
    "bounds are int64": lambda: flash_attn_varlen_func(ROWS, ROWS, ROWS, bounds(4).long(), bounds(4), 4, 4),
    "bounds differ": lambda: flash_attn_varlen_func(ROWS, ROWS, ROWS, bounds(2, 2), bounds(4), 4, 4),
    "bounds end early": lambda: flash_attn_varlen_func(ROWS, ROWS, ROWS, bounds(3), bounds(4), 4, 4),
    "max_seqlen": lambda: flash_attn_varlen_func(ROWS, ROWS, ROWS, bounds(4), bounds(4), 3, 4),
    "pages": lambda: flash_attn_varlen_func(
        ROWS, X, X, bounds(4), bounds(4), 4, 4, block_table=torch.zeros(1, 1, dtype=torch.int32)
    ),
    "slopes": lambda: flash_attn_func(X, X, X, alibi_slopes=torch.zeros(3)),
    "no window": lambda: flash_attn_func(X, X, X, window_size=None),
    "window of three": lambda: flash_attn_func(X, X, X, window_size=(1, 2, 3)),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=list(REFUSED))
def test_refused(call: Any) -> None:
    with pytest.raises(AttentionError):
        call()


def test_a_gpu_tensor_is_sent_to_flash_attn_itself() -> None:
    class OnGpu(torch.Tensor):
        device = torch.device("cuda:0")

    x = X.as_subclass(OnGpu)
    with pytest.raises(AttentionError, match="on the CPU") as caught:
        flash_attn_func(x, x, x)
    assert "flash-attn" in str(caught.value.hint)
