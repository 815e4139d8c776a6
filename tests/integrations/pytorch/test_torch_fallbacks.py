"""PyTorch computes calls that flashbench cannot, warned of once and counted. Errors stay PyTorch's own."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal

from flashbench.integrations.torch import reset_stats, scaled_dot_product_attention, stats
from flashbench.integrations.torch.functional import torch_sdpa


def qkv(*shape: int, dtype: Any = torch.float64) -> list[Any]:
    return [normal(*(shape or (2, 2, 5, 4)), seed=seed, dtype=dtype) for seed in range(3)]


class Named(torch.Tensor):
    """A subclass of Tensor."""


def broadcast(f: Callable[..., Any]) -> Any:
    q, k, v = qkv()
    return f(q, k[:, :1], v[:1])


def fewer_dimensions(f: Callable[..., Any]) -> Any:
    q, k, v = qkv()
    return f(q, k[0, 0], v[0, 0])


def unlike_heads(f: Callable[..., Any]) -> Any:
    q, k, v = qkv(2, 4, 5, 4)
    return f(q, k[:, :2], v[:, :1], enable_gqa=True)


def in_forward_mode(f: Callable[..., Any]) -> Any:
    from torch.autograd import forward_ad
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        q, k, v = qkv()
        o = f(forward_ad.make_dual(q, torch.ones_like(q)), k, v)
        return torch.stack(forward_ad.unpack_dual(o))


def of_jacobian(f: Callable[..., Any]) -> Any:
    q, k, v = qkv(2, 3)
    return torch.func.jacrev(lambda q: f(q, k, v))(q)


REASONS: dict[str, tuple[Callable[[Callable[..., Any]], Any], str]] = {
    "device": (lambda f: f(*(x.to("meta") for x in qkv())), "tensors on meta"),
    "nested": (
        lambda f: f(*[torch.nested.nested_tensor([normal(2, 5, 4), normal(2, 3, 4)])] * 3).to_padded_tensor(
            0.0
        ),
        "nested or sparse",
    ),
    "type": (lambda f: f(*(x.as_subclass(Named) for x in qkv())), "tensors of type Named"),
    "no keys": (lambda f: f(*qkv(2, 2, 0, 4)), "tensors without numbers"),
    "head_dim": (lambda f: f(*qkv(1, 1, 3, 257)), "head_dim above 256"),
    "broadcast": (broadcast, "batches or heads that are broadcast"),
    "dimensions": (fewer_dimensions, "other kinds or shapes"),
    "shared heads": (unlike_heads, "shared in ways of PyTorch's own"),
    "infinite scale": (lambda f: f(*qkv(), scale=float("inf")), "a scale that is not finite"),
    "scale in a tensor": (lambda f: f(*qkv(), scale=torch.tensor(0.3)), "other kinds or shapes"),
    "dropout of 1": (lambda f: f(*qkv(), dropout_p=1.0), "dropout_p of 1"),
    "forward mode": (in_forward_mode, "forward-mode differentiation"),
    "jacrev": (of_jacobian, "transforms of torch.func"),
    "vmap": (lambda f: torch.vmap(f)(*qkv(3, 2, 2, 5, 4)), "transforms of torch.func"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")  # of its forward mode's import
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of PyTorch's under vmap
@pytest.mark.parametrize("name", REASONS)
def test_every_reason(name: str) -> None:
    call, reason = REASONS[name]
    with pytest.warns(UserWarning, match=f"flashbench left attention to PyTorch: .*{reason}"):
        actual = call(scaled_dot_product_attention)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="flashbench")
        again = call(scaled_dot_product_attention)
    expected = call(torch_sdpa)
    for found in (actual, again):
        assert type(found) is type(expected)
        if name != "device":  # meta has no numbers
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    found = stats()
    assert found.forwards == 0
    assert list(found.fallbacks.values()) == [2]
    assert reason in next(iter(found.fallbacks))


def test_a_warning_names_the_callers_line() -> None:
    with pytest.warns(UserWarning, match="dropout_p of 1") as caught:
        scaled_dot_product_attention(*qkv(), dropout_p=1.0)
    assert [warning.filename for warning in caught] == [__file__]


def test_each_reason_warns_once_and_anew_after_a_reset() -> None:
    def warned() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scaled_dot_product_attention(*qkv(), dropout_p=1.0)
            scaled_dot_product_attention(*qkv(), scale=float("inf"))
            scaled_dot_product_attention(*qkv(), dropout_p=1.0)
        return [str(warning.message) for warning in caught]

    first = warned()
    assert len(first) == 2
    assert warned() == []
    assert sorted(stats().fallbacks.values()) == [2, 4]
    reset_stats()
    assert stats().fallbacks == {}
    assert warned() == first


REFUSED: dict[str, dict[str, Any]] = {
    "no tensor": {"query": "q"},
    "other dtypes": {"key": normal(2, 2, 5, 4).float()},
    "one half of another": {"key": normal(2, 2, 5, 4).half(), "value": normal(2, 2, 5, 4).bfloat16()},
    "a dtype that is not for attention": dict(
        zip(("query", "key", "value"), qkv(dtype=torch.complex64), strict=True)
    ),
    "one dimension": {"query": normal(4), "key": normal(4), "value": normal(4)},
    "head_dim": {"key": normal(2, 2, 5, 3)},
    "heads": {"key": normal(2, 3, 5, 4), "value": normal(2, 3, 5, 4)},
    "shared heads": {"key": normal(2, 3, 5, 4), "value": normal(2, 3, 5, 4), "enable_gqa": True},
    "whole numbers": {"attn_mask": torch.ones(5, 5, dtype=torch.int64)},
    "mask's dtype": {"attn_mask": torch.ones(5, 5, dtype=torch.float16)},
    "mask's shape": {"attn_mask": torch.ones(5, 6, dtype=torch.bool)},
    "mask of one dimension": {"attn_mask": torch.ones(5, dtype=torch.bool)},
    "mask of no dimension": {"attn_mask": torch.tensor(True)},
    "mask of five": {"attn_mask": torch.ones(3, 2, 2, 5, 5)},
    "dropout above 1": {"dropout_p": 1.5},
    "dropout below 0": {"dropout_p": -0.1},
    "dropout's kind": {"dropout_p": "no"},
    "causal's kind": {"is_causal": 1},
    "gqa's kind": {"enable_gqa": 1},
    "scale's kind": {"scale": "big"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_refuses_is_its_own_error(name: str) -> None:
    arguments = dict(zip(("query", "key", "value"), qkv(), strict=True)) | REFUSED[name]
    with pytest.raises((TypeError, RuntimeError, IndexError, AttributeError)) as expected:
        torch_sdpa(**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(expected.type) as actual:
            scaled_dot_product_attention(**arguments)
    # PyTorch's message also has the argument's position in our call.
    assert re.sub(r" \(position \d\)", "", str(actual.value)) == str(expected.value)
    assert stats() == (0, 0, {})


def test_gradients_of_what_falls_back_are_pytorchs() -> None:
    leaves = [x.requires_grad_() for x in qkv()]
    with pytest.warns(UserWarning, match="broadcast"):
        o = scaled_dot_product_attention(leaves[0], leaves[1][:1], leaves[2][:1])
    actual = torch.autograd.grad(o.sum(), leaves)
    expected = torch.autograd.grad(torch_sdpa(leaves[0], leaves[1][:1], leaves[2][:1]).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert stats().backwards == 0


def test_calls_are_counted_from_all_threads() -> None:
    def work() -> None:
        for _ in range(20):
            leaves = [x.requires_grad_() for x in qkv()]
            scaled_dot_product_attention(*leaves).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats() == (80, 80, {})
