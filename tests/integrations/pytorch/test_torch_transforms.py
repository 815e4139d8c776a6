"""Transforms of torch.func and batched backward passes give what PyTorch's function gives for each slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashbench.errors import UnsupportedError
from flashbench.integrations.torch import attention, flashbench_attention, reset_stats, stats

F = torch.nn.functional
pytestmark = [
    pytest.mark.filterwarnings("ignore:flashbench left attention:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]
ENGINES = pytest.mark.parametrize("engine", ["flash", "standard"])


Q, K, V = (normal(1, 2, 3, 4, seed=seed) for seed in range(3))
MASK = normal(3, 3, seed=3)
MANY = normal(3, 1, 2, 3, 4, seed=4)
MASKS = normal(3, 3, 3, seed=5)
func = torch.func


def of(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: f(*arguments).sin().sum()


TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "vmap": lambda f: func.vmap(f)(MANY, MANY.sin(), MANY.cos(), MASKS),
    "vmap along the last": lambda f: func.vmap(f, in_dims=(4, None, None, None), out_dims=2)(
        MANY.movedim(0, 4), K, V, MASK
    ),
    "vmap of vmap": lambda f: func.vmap(
        func.vmap(f, in_dims=(0, None, None, None)), in_dims=(None, 0, 0, None)
    )(MANY, MANY, MANY, MASK),
    "grad": lambda f: func.grad(of(f), argnums=(0, 1, 2, 3))(Q, K, V, MASK),
    "jacrev": lambda f: func.jacrev(f, argnums=(0, 1, 2, 3))(Q, K, V, MASK),
    "vmap of grad": lambda f: func.vmap(
        func.grad(of(f), argnums=(0, 1, 2, 3)), in_dims=(0, None, None, 0)
    )(MANY, K, V, MASKS),
    "grad of vmap": lambda f: func.grad(
        lambda *x: of(func.vmap(f, in_dims=(0, None, None, 0)))(*x), argnums=(0, 1, 2, 3)
    )(MANY, K, V, MASKS),
}  # fmt: skip


def of_many_gradients(f: Callable[..., Any], together: Callable[..., Any]) -> Any:
    """Rows of a Jacobian by q, k, v and a mask, from a graph that already exists."""
    leaves = [x.clone().requires_grad_() for x in (Q, K, V, MASK)]
    o = f(*leaves)
    rows = torch.eye(o.numel(), dtype=o.dtype).view(-1, *o.shape)
    return together(o, leaves, rows)


BATCHED: dict[str, Callable[..., Any]] = {
    "is_grads_batched": lambda o, leaves, rows: torch.autograd.grad(o, leaves, rows, is_grads_batched=True),
    "vmap": lambda o, leaves, rows: func.vmap(
        lambda row: torch.autograd.grad(o, leaves, row, retain_graph=True)
    )(rows),
}


def one_after_the_other(o: Any, leaves: Any, rows: Any) -> Any:
    found = [torch.autograd.grad(o, leaves, row, retain_graph=True) for row in rows]
    return tuple(map(torch.stack, zip(*found, strict=True)))


def by_torch(q: Any, k: Any, v: Any, mask: Any) -> Any:
    with sdpa_kernel(SDPBackend.MATH):  # which has every transform
        return F.scaled_dot_product_attention(q, k, v, mask)


def ours(engine: str) -> Callable[..., Any]:
    return lambda q, k, v, mask: attention(q, k, v, mask=mask, engine=engine)


def assert_alike(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@ENGINES
@pytest.mark.parametrize("name", TRANSFORMS)
def test_attention_under_transforms(name: str, engine: str) -> None:
    assert_alike(TRANSFORMS[name](ours(engine)), TRANSFORMS[name](by_torch))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pytorchs_function_under_transforms_within_a_block(name: str) -> None:
    expected = TRANSFORMS[name](by_torch)
    reset_stats()
    with flashbench_attention():
        assert_alike(TRANSFORMS[name](by_torch), expected)
    assert stats().fallbacks == {"transforms of torch.func": 1}
    reset_stats()


@ENGINES
@pytest.mark.parametrize("name", BATCHED)
def test_many_gradients_at_once(name: str, engine: str) -> None:
    actual = of_many_gradients(ours(engine), BATCHED[name])
    assert_alike(actual, of_many_gradients(by_torch, one_after_the_other))


def test_a_vectorized_jacobian_within_a_block() -> None:
    def jacobian(**named: Any) -> Any:
        return torch.autograd.functional.jacobian(
            lambda q: F.scaled_dot_product_attention(q, K, V, is_causal=True), Q, **named
        )

    expected = jacobian()
    with flashbench_attention():
        assert_alike(jacobian(), expected)
        assert_alike(jacobian(vectorize=True), expected)


def test_dropout_differs_from_slice_to_slice_where_vmap_is_told_so() -> None:
    def call(q: Any) -> Any:
        return attention(q, q, q, dropout=0.5)

    alike = Q.expand(2, *Q.shape)
    same = func.vmap(call, randomness="same")(alike)
    assert torch.equal(same[0], same[1])
    different = func.vmap(call, randomness="different")(alike)
    assert not torch.equal(different[0], different[1])


SECOND: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "hessian": lambda f: func.jacrev(func.jacrev(f))(Q),
    "vectorize": lambda f: torch.autograd.functional.hessian(f, Q, vectorize=True),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_derivative_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="no second derivative"):
        SECOND[name](lambda q: attention(q, K, V).sum())


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_forward_mode_derivative_is_refused(requires_grad: bool) -> None:
    """PyTorch would treat the result as a constant, with derivative 0."""
    with forward_ad.dual_level():
        q = forward_ad.make_dual(Q.clone().requires_grad_(requires_grad), torch.ones_like(Q))
        with pytest.raises(UnsupportedError, match="no forward-mode derivative"):
            attention(q, K, V)
        assert attention(Q, K, V).shape == Q.shape  # nothing to differentiate by
    with pytest.raises(UnsupportedError, match="no forward-mode derivative"):
        func.jvp(lambda q: attention(q, K, V), (Q,), (Q,))
