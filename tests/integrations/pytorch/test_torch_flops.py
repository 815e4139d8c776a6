"""FlopCounterMode counts the same for our operators as for PyTorch's own attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from flashbench.integrations.torch import ATTENTIONS, attention, flashbench_attention

SHAPES = (2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6)  # of q, k, v


def leaves(*shapes: Any) -> list[Any]:
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as mode:
        call()
    found: int = mode.get_total_flops()
    return found


def forward_and_backward(name: str) -> tuple[int, int]:
    function = ATTENTIONS[name]
    with torch.no_grad():
        forward = counted(lambda: function(*leaves(*SHAPES)))
    return forward, counted(lambda: function(*leaves(*SHAPES)).sum().backward()) - forward


def test_flash_is_counted_by_pytorchs_formulas() -> None:
    q, k, v = SHAPES
    do = (*q[:3], v[3])
    assert forward_and_backward("flash") == (sdpa_flop_count(q, k, v), sdpa_backward_flop_count(do, q, k, v))


def test_standard_is_counted_as_pytorchs_matrix_products() -> None:
    """The backward of standard has the probabilities, and does not compute them again."""
    assert forward_and_backward("standard") == forward_and_backward("torch-math")


def test_shared_heads_count_as_those_of_queries() -> None:
    q, k, v = leaves((2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8))
    assert counted(lambda: attention(q, k, v)) == 2 * (2 * 2 * 4 * 5 * 7 * 8)


def test_a_backward_alone_is_counted() -> None:
    o = attention(*leaves(*SHAPES))
    assert counted(lambda: o.sum().backward()) == forward_and_backward("flash")[1]


def test_a_layer_within_a_block_is_counted() -> None:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8).requires_grad_()

    def call() -> None:
        layer(x, x, x, need_weights=False)[0].sum().backward()

    with flashbench_attention("torch-math"):
        expected = counted(call)
    with flashbench_attention("standard"):
        assert counted(call) == expected
