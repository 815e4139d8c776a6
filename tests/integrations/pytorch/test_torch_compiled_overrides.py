"""Compiled or exported in a block: types and modes find PyTorch's function; exports have our operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.overrides import TorchFunctionMode

from flashbench.integrations.torch import flashbench_attention, stats

F = torch.nn.functional
TORCHS = F.scaled_dot_product_attention
pytestmark = [
    pytest.mark.filterwarnings("ignore:flashbench left attention:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _as_it_was(fresh_compiler: None) -> Iterator[None]:
    yield
    assert F.scaled_dot_product_attention is TORCHS


def qkv(keys: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, n, 4, dtype=torch.float64, generator=generator) for n in (5, keys, keys)]


class Looking(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return func(*args[:3]) * 100
        return super().__torch_function__(func, types, args, kwargs)


class Remembering(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is TORCHS:
            return func(*args[:3]) * 100
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize("kind", [Looking, Remembering])
def test_types_of_ones_own_recognise_the_function(kind: Any) -> None:
    bias = torch.zeros(5, 5).as_subclass(kind)

    def call(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias) + 1

    expected = call(*qkv())
    with flashbench_attention():
        actual = torch.compile(call, backend="eager")(*qkv())
        torch._dynamo.reset()
        whole = torch.compile(call, fullgraph=True, backend="eager")
        with pytest.raises(torch._dynamo.exc.Unsupported, match="overridden"):  # rather than a wrong result
            whole(*qkv())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert stats() == (1, 0, {})  # the call that the type passed on


@pytest.mark.parametrize("keys", [5, 9])
@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
def test_causal_biases_are_compiled_as_a_whole(make: Any, keys: int) -> None:
    q, k, v = qkv(keys)
    bias = make(5, keys)

    def call(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    expected = call(q, k, v)
    with flashbench_attention():
        actual = torch.compile(call, fullgraph=True, backend="eager")(q, k, v)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert stats() == (1, 0, {})


class Seeing(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append(func)
        return func(*args, **(kwargs or {}))


def call(q: Any, k: Any, v: Any) -> Any:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_modes_see_a_compiled_call() -> None:
    with flashbench_attention(), Seeing() as mode:
        o = torch.compile(call, backend="eager")(*qkv())
    assert mode.seen == [TORCHS]
    torch.testing.assert_close(o, call(*qkv()), rtol=0, atol=1e-12)
    assert stats() == (1, 0, {})


def test_a_default_device_leaves_compiled_calls_here() -> None:
    with flashbench_attention(), torch.device("cpu"):
        torch.compile(call, backend="eager")(*qkv())
    assert stats() == (1, 0, {})


class Model(torch.nn.Module):
    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return call(q, k, v)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_exports_hold_flashbenchs_operator(strict: bool, seen: bool) -> None:
    """Export has its own modes; a user's mode may be around it."""
    arguments = tuple(qkv())
    with flashbench_attention():
        if seen:
            with Seeing() as mode:
                program = torch.export.export(Model(), arguments, strict=strict)
            assert strict or mode.seen == [TORCHS]
        else:
            program = torch.export.export(Model(), arguments, strict=strict)
    assert "flashbench.attention" in str(program.graph)
    torch.testing.assert_close(program.module()(*arguments), call(*arguments), rtol=0, atol=1e-12)
