"""CPU tensors with any default device, and views that PyTorch negates at each read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal

from flashbench.integrations.torch import (
    attention,
    flashbench_attention,
    scaled_dot_product_attention,
    stats,
)

F = torch.nn.functional
TORCHS = F.scaled_dot_product_attention
BOTH = pytest.mark.parametrize("engine", ["flash", "standard"])


# Only this module uses these shapes, as calls cache what depends on shapes.
Q, K, V = (normal(1, 2, 13, 6, seed=seed) for seed in range(3))
MASK = normal(13, 13, seed=3)
CALLS: dict[str, Callable[[], Any]] = {
    "plain": lambda: scaled_dot_product_attention(Q, K, V),
    "mask": lambda: scaled_dot_product_attention(Q, K, V, MASK),
    "three dimensions": lambda: scaled_dot_product_attention(Q[0], K[0], V[0], is_causal=True),
    "every option": lambda: attention(
        Q, K, V, sinks=MASK[0, :2], key_lengths=torch.tensor([9], device="cpu"), softcap=2.0, window=(3, 0)
    ),
    "dropout": lambda: scaled_dot_product_attention(Q, K, V, dropout_p=0.2),
    "gradients": lambda: torch.stack(
        torch.autograd.grad(attention(Q.requires_grad_(), K, V.requires_grad_()).sum(), (Q, V))
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_does_not_matter(name: str) -> None:
    torch.manual_seed(7)
    with torch.device("meta"):
        within = CALLS[name]()
    torch.manual_seed(7)
    assert within.device.type == "cpu"
    assert torch.equal(within, CALLS[name]())


def test_a_default_device_that_was_set_does_not_matter_within_a_block() -> None:
    expected = TORCHS(Q, K, V, is_causal=True)
    torch.set_default_device("meta")
    try:
        with flashbench_attention():
            actual = F.scaled_dot_product_attention(Q, K, V, is_causal=True)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert stats() == (1, 0, {})


def negated(*shape: int, seed: int) -> Any:
    """The imaginary part of a conjugate: a view with the negative bit."""
    found = normal(*shape, seed=seed, dtype=torch.complex128).conj().imag
    assert found.is_neg()
    return found.requires_grad_()


@BOTH
@pytest.mark.parametrize("place", [0, 1, 2, 3, slice(0, 4)])
def test_negated_views_are_read_as_the_numbers_that_they_are(engine: str, place: Any) -> None:
    """As q, k, v, mask, or all of them, and as the gradient of the output."""
    leaves = [normal(2, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    leaves.append(normal(5, 5, seed=3).requires_grad_())
    views = [negated(2, 2, 5, 4, seed=seed) for seed in range(3)] + [negated(5, 5, seed=3)]
    leaves[place] = views[place]
    do = negated(2, 2, 5, 4, seed=9).detach()
    o = scaled_dot_product_attention(*leaves, engine=engine)
    expected = TORCHS(*leaves)
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-12)
    for actual, should in zip(
        torch.autograd.grad(o, leaves, do), torch.autograd.grad(expected, leaves, do), strict=True
    ):
        torch.testing.assert_close(actual, should, rtol=0, atol=1e-12)
    assert stats() == (1, 1, {})


def test_negated_sinks() -> None:
    sinks = negated(2, seed=4).detach()
    assert torch.equal(attention(Q, K, V, sinks=sinks), attention(Q, K, V, sinks=sinks.resolve_neg()))
