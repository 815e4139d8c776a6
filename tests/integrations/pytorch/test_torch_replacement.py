"""flashbench in place of PyTorch's function: blocks, enable and disable, names, models, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal

from flashbench.errors import EngineError
from flashbench.integrations.torch import (
    ATTENTIONS,
    disable,
    enable,
    flashbench_attention,
    scaled_dot_product_attention,
    stats,
)
from flashbench.integrations.torch.functional import torch_sdpa

F = torch.nn.functional
SUBSEQUENT = torch.nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    assert F.scaled_dot_product_attention is torch_sdpa


def test_a_block() -> None:
    with flashbench_attention():
        assert F.scaled_dot_product_attention is scaled_dot_product_attention
    assert F.scaled_dot_product_attention is torch_sdpa


def test_blocks_within_blocks() -> None:
    with flashbench_attention("standard"):
        with flashbench_attention("torch-math"):
            assert F.scaled_dot_product_attention is ATTENTIONS["torch-math"]
            with flashbench_attention():
                assert F.scaled_dot_product_attention is ATTENTIONS["flash"]
            assert F.scaled_dot_product_attention is ATTENTIONS["torch-math"]
        assert F.scaled_dot_product_attention is ATTENTIONS["standard"]


def test_a_block_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), flashbench_attention(), flashbench_attention("standard"):
        raise ZeroDivisionError
    assert F.scaled_dot_product_attention is torch_sdpa


def test_blocks_that_overlap() -> None:
    """Blocks of two threads may overlap."""
    first, second = flashbench_attention("flash"), flashbench_attention("standard")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is ATTENTIONS["standard"]
    second.__exit__(None, None, None)
    assert F.scaled_dot_product_attention is torch_sdpa


def test_a_decorator() -> None:
    @flashbench_attention()
    def function() -> Any:
        return F.scaled_dot_product_attention

    assert function() is function() is scaled_dot_product_attention


def test_pairs_of_enable_and_disable() -> None:
    enable()
    enable("standard")
    assert F.scaled_dot_product_attention is ATTENTIONS["standard"]
    disable()
    assert F.scaled_dot_product_attention is ATTENTIONS["flash"]
    disable()
    assert F.scaled_dot_product_attention is torch_sdpa
    disable()  # one call more than enable had: nothing happens
    assert F.scaled_dot_product_attention is torch_sdpa


def test_a_wrong_name_changes_nothing() -> None:
    message = "unknown attention 'fast'; known: flash, standard, torch-flash, torch-math"
    with pytest.raises(EngineError, match=message):
        enable("fast")
    with flashbench_attention(), pytest.raises(EngineError, match=message), flashbench_attention("fast"):
        pass
    disable()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_computes_attention(name: str) -> None:
    leaves = [normal(2, 2, 5, 4, seed=seed).requires_grad_() for seed in range(3)]
    expected = torch_sdpa(*leaves, is_causal=True)
    with flashbench_attention(name):
        actual = F.scaled_dot_product_attention(*leaves, is_causal=True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert stats().forwards == (name in ("flash", "standard"))
    torch.autograd.grad(actual.sum(), leaves)


def trained(model: Any, x: Any, **options: Any) -> tuple[list[float], list[Any]]:
    """Losses and parameters of three training steps."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        found = model(x, **options)
        loss = found.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, list(model.parameters())


def attention_layer() -> Any:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)

        def forward(self, x: Any, mask: Any = None) -> Any:
            return self.attention(x, x, x, need_weights=False, attn_mask=mask)[0]

    return Model()


def encoder_layer() -> Any:
    return torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64)


@pytest.mark.parametrize("attention", ["flash", "standard"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (attention_layer, {}),
        (attention_layer, {"mask": torch.ones(7, 7, dtype=torch.bool).triu(1)}),
        (encoder_layer, {}),
        (encoder_layer, {"src_key_padding_mask": torch.tensor([[False] * 7, [False] * 4 + [True] * 3])}),
        (
            encoder_layer,
            {"src_mask": SUBSEQUENT, "is_causal": True},
        ),
    ],
)  # fmt: skip
def test_training_of_pytorchs_own_layers(attention: str, make: Any, options: dict[str, Any]) -> None:
    x = normal(2, 7, 8)
    torch.manual_seed(1)
    losses, parameters = trained(make(), x, **options)
    assert stats().forwards == 0
    with flashbench_attention(attention):
        torch.manual_seed(1)
        own_losses, own_parameters = trained(make(), x, **options)
    assert stats() == (3, 3, {})
    assert own_losses == pytest.approx(losses, rel=1e-12)
    for actual, expected in zip(own_parameters, parameters, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_blocks_of_many_threads_leave_nothing_behind() -> None:
    """Within the blocks every thread finds an attention, and after all blocks PyTorch's own."""
    leaves = [normal(1, 1, 4, 4, seed=seed) for seed in range(3)]
    expected = torch_sdpa(*leaves)
    wrong: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(50):
                with flashbench_attention(name):
                    actual = F.scaled_dot_product_attention(*leaves)
                torch.testing.assert_close(actual, expected)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ATTENTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert F.scaled_dot_product_attention is torch_sdpa
