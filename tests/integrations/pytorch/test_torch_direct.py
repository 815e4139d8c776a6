"""Short calls go by the tensors' addresses. They give the bits of calls by arrays, or are not taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

import flashbench
from flashbench.errors import AttentionError
from flashbench.integrations.torch import attention, direct, functional, scaled_dot_product_attention
from flashbench.integrations.torch.options import Options

SHAPE = (2, 3, 20, 16)


def offset(x: Tensor, by: int) -> Tensor:
    """The same numbers, `by` elements behind the start of their memory."""
    memory = x.new_empty(x.numel() + by)
    return memory[by:].view(x.shape).copy_(x)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "own": lambda x: x,
    "by rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "rows apart": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "every second column": lambda x: torch.stack([x, x], 4).flatten(3)[..., ::2],
    "not aligned to 8 bytes": lambda x: offset(x, 1),
    "one head for all": lambda x: x[:, :1].expand(x.shape),
    "negated when read": lambda x: torch._neg_view(-x),
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def tensors(dtype: torch.dtype, seed: int = 0, head_dim_v: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (*(SHAPE,) * 2, *((*SHAPE[:3], head_dim_v),) * 2)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def by_arrays(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[Tensor]:
    """What `results` gives where no call goes by addresses."""
    with monkeypatch.context() as patch:
        patch.setattr(direct, "_addresses", lambda *_: None)
        return results(q, k, v, do, **options)


def results(q: Tensor, k: Tensor, v: Tensor, do: Tensor, **options: Any) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    o = attention(*leaves, **options)
    return [attention(q, k, v, **options), o.detach(), *torch.autograd.grad(o, leaves, do)]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_are_those_of_calls_by_arrays(
    dtype: torch.dtype, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [VIEWS[view](x) for x in tensors(dtype)]
    for options in ({}, {"causal": True}, {"softcap": 2.0, "window": (3, 1)}):
        expected = by_arrays(*given, monkeypatch, **options)
        for _ in range(2):
            found = results(*given, **options)
            for a, b in zip(found, expected, strict=True):
                assert a.dtype is b.dtype
                assert a.stride() == b.stride()
                assert torch.equal(a, b)


def test_values_may_have_another_head_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors(torch.float32, head_dim_v=24)
    for a, b in zip(results(*given), by_arrays(*given, monkeypatch), strict=True):
        assert torch.equal(a, b)


def test_they_are_the_bits_of_attention_on_numpy_arrays() -> None:
    q, k, v, do = tensors(torch.float32)
    o, lse = flashbench.attention(*(x.numpy() for x in (q, k, v)), return_lse=True)
    gradients = flashbench.attention_backward(*(x.numpy() for x in (do, q, k, v)), o, lse)
    _, *found = results(q, k, v, do)
    for a, b in zip(found, (o, *gradients), strict=True):
        assert np.array_equal(a.numpy(), b)


@pytest.mark.parametrize(
    ("view", "taken"),
    [
        ("own", True),
        ("by rows", True),
        ("rows apart", True),
        ("not aligned to 8 bytes", False),
        ("negated when read", False),
        ("every second column", False),
    ],
)
def test_which_tensors_go_by_addresses(view: str, taken: bool) -> None:
    q, k, v, do = (VIEWS[view](x) for x in tensors(torch.float32))
    forward = direct.forward_at(q, k, v, Options())
    assert (forward is not None) == taken
    lse = torch.zeros(SHAPE[:3])
    assert (direct.backward_at(do, q, k, v, q, lse, Options()) is not None) == taken


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "standard"},
        {"mask": torch.ones(20, 20, dtype=torch.bool)},
        {"alibi_slopes": torch.ones(3)},
        {"sinks": torch.ones(3)},
        {"key_lengths": torch.tensor([3, 4])},
        {"dropout": 0.5, "dropout_seed": torch.tensor(1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_options_with_tensors_and_other_engines_go_by_arrays(changes: dict[str, Any]) -> None:
    q, k, v, _ = tensors(torch.float32)
    assert direct.forward_at(q, k, v, Options(**changes)) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_that_threads_share_have_the_same_bits(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [torch.randn(1, 4, 300, 64) for _ in range(4)]
    assert direct.forward_at(*given[:3], Options()) is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for a, b in zip(results(*given), by_arrays(*given, monkeypatch), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"scale": 2},
        {"enable_gqa": True},
        {"block_q": 8, "block_k": 8},
    ],
    ids=str,
)
def test_sdpa_has_the_bits_of_calls_by_arrays(
    dtype: torch.dtype, named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, _ = tensors(dtype)
    if "enable_gqa" in named:
        k, v = k[:, :1], v[:, :1]
    found = [scaled_dot_product_attention(q, k, v, **named) for _ in range(2)]
    monkeypatch.setattr(direct, "_addresses", lambda *_: None)
    expected = scaled_dot_product_attention(q, k, v, **named)
    for o in found:
        assert torch.equal(o, expected)
        assert o.stride() == expected.stride()


def test_sdpa_goes_by_addresses_only_where_numbers_are_all_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[bool] = []
    at = functional.sdpa_at

    def spy(*given: Any) -> Tensor | None:
        taken.append(True)
        return at(*given)

    monkeypatch.setattr(functional, "sdpa_at", spy)

    def goes(*given: Any, **named: Any) -> bool:
        taken.clear()
        scaled_dot_product_attention(*given, **named)
        return bool(taken)

    q, k, v, _ = tensors(torch.float32)
    assert goes(q, k, v)
    assert goes(q, k, v, dropout_p=0)
    assert not goes(q, k, v, attn_mask=torch.ones(20, 20, dtype=torch.bool))
    assert not goes(q, k, v, dropout_p=0.5)
    assert not goes(q, k, v, engine="standard")
    assert not goes(q.clone().requires_grad_(), k, v)
    with torch.no_grad():
        assert goes(q.clone().requires_grad_(), k, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert not goes(q, k, v)
    for odd in ({"is_causal": 1}, {"scale": "1"}, {"enable_gqa": None}):
        with pytest.raises((TypeError, RuntimeError)):  # PyTorch's own
            scaled_dot_product_attention(q, k, v, **odd)


def test_errors_name_the_argument() -> None:
    q = torch.ones(1, 2, 3, 4)
    with pytest.raises(AttentionError, match=r"^k must be a CPU tensor of .*, not float32 on meta"):
        attention(q, q.to("meta"), q)
    with pytest.raises(AttentionError, match=r"^q must be .* not complex64"):
        attention(q.to(torch.complex64), q, q)
    with pytest.raises(AttentionError, match=r"^v has dtype float64, q has float32"):
        attention(q, q, q.double())


def test_threads_with_different_shapes_disturb_no_call() -> None:
    cases = []
    for seed in range(8):
        q, k, v, do = (x[:, :, : 5 + 2 * seed].contiguous() for x in tensors(DTYPES[seed % 4], seed))
        cases.append(((q, k, v, do), results(q, k, v, do, causal=bool(seed % 3))))
    wrong: list[int] = []

    def storm(first: int) -> None:
        for turn in range(60):
            seed = (first + turn * (1 + first % 3)) % len(cases)
            given, expected = cases[seed]
            found = results(*given, causal=bool(seed % 3))
            if not all(map(torch.equal, found, expected)):
                wrong.append(seed)

    threads = [threading.Thread(target=storm, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sdpa_is_pytorchs_within_rounding() -> None:
    q, k, v, _ = tensors(torch.float64)
    for causal in (False, True):
        found = scaled_dot_product_attention(q, k, v, is_causal=causal)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
