"""Dropout: its share, its expectation, its gradient, and the source of its random numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from flashbench.integrations.torch import attention, flashbench_attention, scaled_dot_product_attention

EVERY_ENGINE = pytest.mark.parametrize("engine", ["flash", "standard"])
N = 96


def inputs() -> list[Any]:
    """With these values o is P itself."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, N, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    return [q, k, torch.eye(N, dtype=torch.float64).expand(2, 3, N, N)]


@EVERY_ENGINE
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_become_zero_and_the_rest_grows(engine: str, share: float) -> None:
    p = scaled_dot_product_attention(*inputs(), engine=engine)
    torch.manual_seed(5)
    dropped = scaled_dot_product_attention(*inputs(), dropout_p=share, engine=engine)
    kept = dropped != 0
    deviation = math.sqrt(share * (1 - share) / kept.numel())
    assert abs((~kept).double().mean().item() - share) < 5 * deviation
    # In every head, row and column too, not only over all.
    for axes in ((2, 3), (0, 1, 2), (0, 1, 3)):
        part = (~kept).double().mean(axes)
        assert (part - share).abs().max() < 6 * math.sqrt(share * (1 - share) / (kept.numel() / part.numel()))
    torch.testing.assert_close(dropped[kept], p[kept] / (1 - share), rtol=1e-10, atol=0)


def test_its_expectation_is_attention_without() -> None:
    q, k, _ = inputs()
    v = torch.randn(2, 3, N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(6)
    found = torch.stack([scaled_dot_product_attention(q, k, v, dropout_p=0.3) for _ in range(400)])
    expected = scaled_dot_product_attention(q, k, v)
    error = (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(found)))
    assert error.abs().max() < 6
    assert abs(error.mean().item()) < 5 / math.sqrt(error.numel())


@EVERY_ENGINE
def test_it_differs_from_call_to_call_and_manual_seed_decides(engine: str) -> None:
    def call() -> Any:
        return scaled_dot_product_attention(*inputs(), dropout_p=0.5, engine=engine)

    torch.manual_seed(7)
    first, second = call(), call()
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(call(), first)
    assert torch.equal(call(), second)


def test_without_dropout_no_chance_is_used() -> None:
    state = torch.get_rng_state()
    scaled_dot_product_attention(*inputs())
    attention(*inputs(), dropout=0.5, dropout_seed=torch.tensor(1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -1])
def test_a_seed_means_the_same_to_every_engine(seed: int) -> None:
    options = {"dropout": 0.5, "dropout_seed": torch.tensor(seed)}
    flash, standard = (
        attention(*inputs(), engine=engine, **options) != 0 for engine in ("flash", "standard")
    )
    assert torch.equal(flash, standard)


@EVERY_ENGINE
def test_the_gradient_is_of_what_was_kept(engine: str) -> None:
    """dv = P'^T do, where P' is the matrix that the forward multiplied v by."""
    q, k, v = inputs()
    v = v.clone().requires_grad_()
    o = scaled_dot_product_attention(q, k, v, dropout_p=0.4, engine=engine)
    do = torch.randn(o.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (dv,) = torch.autograd.grad(o, v, do)
    torch.testing.assert_close(dv, o.detach().transpose(2, 3) @ do, rtol=0, atol=1e-10)


def test_pytorchs_layers_drop_while_they_train_and_only_then() -> None:
    layer = torch.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 7, 8, dtype=torch.float64)

    def call() -> Any:
        return layer(x, x, x, need_weights=False)[0]

    with flashbench_attention():
        assert not torch.equal(call(), call())
        layer.eval()
        assert torch.equal(call(), call())
