"""Symbolic sizes in compiled code, and errors during tracing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from flashbench.errors import AttentionError, EngineError, FlashbenchError, UnsupportedError
from flashbench.integrations.torch import scaled_dot_product_attention, stats

TORCHS = torch.nn.functional.scaled_dot_product_attention
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]


class Biased(torch.nn.Module):
    """Attention with a learned bias. Its sizes stay numbers, while sizes of inputs become symbols."""

    def __init__(self, attention: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.attention = attention
        self.bias = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return self.attention(q, k, v, self.bias)


def inputs(batch: int, rows: int, keys: int) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 2, n, 8, generator=generator) for n in (rows, keys, keys)]


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((20, 20), [(2, 20, 20), (3, 20, 20)]),
        ((1, 1, 1, 20), [(2, 5, 20), (3, 6, 20), (2, 7, 20)]),
        ((4, 1, 1, 20), [(4, 5, 20), (4, 6, 20)]),
        ((20, 1), [(2, 20, 5), (2, 20, 9)]),
    ],
)
def test_a_mask_of_numbers_beside_sizes_of_names(shape: Any, sizes: Any) -> None:
    model = Biased(scaled_dot_product_attention, *shape)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in sizes:
            given = inputs(*size)
            torch.testing.assert_close(compiled(*given), TORCHS(*given, model.bias))
    assert stats() == (len(sizes), 0, {})


def test_prompts_of_many_lengths_into_one_cache() -> None:
    """The first length is compiled as a number, later lengths as a symbol."""

    def step(q: Any, k: Any, v: Any, places: Any) -> Any:
        visible = torch.arange(k.shape[2])[None, :] <= places[:, None]
        return scaled_dot_product_attention(q, k, v, visible[None, None])

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for rows in (5, 9, 7, 1, 20):
        q, k, v = inputs(1, rows, 20)
        places = torch.arange(20 - rows, 20)
        torch.testing.assert_close(compiled(q, k, v, places), step(q, k, v, places))
    assert stats() == (10, 0, {})


ERRORS = pytest.mark.parametrize("kind", [AttentionError, EngineError, UnsupportedError])


@ERRORS
def test_errors_are_traced(kind: type[FlashbenchError]) -> None:
    def caught(x: Any) -> Any:
        try:
            raise kind("what breaks a rule", hint="what to do")
        except kind as error:
            return x + len(error.args) + len(error.hint or "")

    compiled = torch.compile(caught, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(())) == 1 + len("what to do")


@ERRORS
def test_errors_travel_between_processes(kind: type[FlashbenchError]) -> None:
    found = pickle.loads(pickle.dumps(kind("what breaks a rule", hint="what to do")))
    assert (str(found), found.hint, found.args) == (
        "what breaks a rule",
        "what to do",
        ("what breaks a rule",),
    )
