"""Types, modes and tracers that recognise PyTorch's function by identity do so also inside a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.overrides import TorchFunctionMode

from flashbench.integrations.torch import (
    ATTENTIONS,
    flashbench_attention,
    overrides,
    scaled_dot_product_attention,
    stats,
)

F = torch.nn.functional
TORCHS = F.scaled_dot_product_attention
EVERY_ATTENTION = pytest.mark.parametrize("attention", ATTENTIONS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:flashbench left attention:UserWarning"),
    pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    assert F.scaled_dot_product_attention is TORCHS
    assert torch.overrides._get_current_function_mode_stack() == []


def qkv(keys: int = 5) -> list[Any]:
    return [normal(2, 2, n, 4, seed=seed) for seed, n in enumerate((5, keys, keys))]


def by_formula(q: Any, k: Any, v: Any, visible: Any) -> Any:
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, float("-inf"))
    return torch.softmax(scores, -1) @ v


@EVERY_ATTENTION
@pytest.mark.parametrize("keys", [5, 9])
@pytest.mark.parametrize("make", [causal_upper_left, causal_lower_right])
def test_causal_biases_are_what_pytorch_means_by_them(attention: str, keys: int, make: Any) -> None:
    leaves = [x.requires_grad_() for x in qkv(keys)]
    offset = keys - 5 if make is causal_lower_right else 0
    expected = by_formula(*leaves, torch.ones(5, keys).tril(offset).bool())
    with flashbench_attention(attention):
        o = F.scaled_dot_product_attention(*leaves, make(5, keys))
        by_name = F.scaled_dot_product_attention(*leaves, attn_mask=make(5, keys))
    assert type(o) is torch.Tensor
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-12)
    assert torch.equal(by_name, o)
    for actual, should in zip(
        torch.autograd.grad(o.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(actual, should, rtol=0, atol=1e-12)
    # The bias passes on attention with a mask or causality, and we compute that.
    assert stats() == (2 * (attention in ("flash", "standard")), attention in ("flash", "standard"), {})


def test_a_causal_bias_of_more_queries_than_keys() -> None:
    leaves = qkv(3)
    expected = TORCHS(*leaves, causal_lower_right(5, 3))
    with flashbench_attention():
        actual = F.scaled_dot_product_attention(*leaves, causal_lower_right(5, 3))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_a_causal_bias_beside_is_causal_is_pytorchs_error() -> None:
    with flashbench_attention(), pytest.raises(ValueError, match="should not be used with causal=True"):
        F.scaled_dot_product_attention(*qkv(), causal_upper_left(5, 5), is_causal=True)


def test_a_causal_bias_given_to_the_function_itself() -> None:
    leaves = qkv(9)
    expected = TORCHS(*leaves, causal_lower_right(5, 9))
    with flashbench_attention():
        torch.testing.assert_close(scaled_dot_product_attention(*leaves, causal_lower_right(5, 9)), expected)
    torch.testing.assert_close(scaled_dot_product_attention(*leaves, causal_lower_right(5, 9)), expected)


class Looking(torch.Tensor):
    """Recognises the function as torch.nn.functional's attribute."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return "recognised"
        return super().__torch_function__(func, types, args, kwargs)


class Remembering(torch.Tensor):
    """Recognises the function by its own reference."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is TORCHS:
            return "recognised"
        return super().__torch_function__(func, types, args, kwargs)


class Declining(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented if func is TORCHS else super().__torch_function__(func, types, args, kwargs)


@EVERY_ATTENTION
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", [Looking, Remembering])
def test_a_type_of_ones_own_recognises_the_function(attention: str, place: int, kind: Any) -> None:
    arguments = [*qkv(), torch.zeros(5, 5, dtype=torch.float64)]
    arguments[place] = arguments[place].as_subclass(kind)
    with flashbench_attention(attention):
        assert F.scaled_dot_product_attention(*arguments) == "recognised"
    ours = attention in ("flash", "standard")
    assert stats() == (0, 0, {f"tensors of type {kind.__name__}": 1} if ours else {})


def test_a_type_that_declines_is_pytorchs_error() -> None:
    arguments = [x.as_subclass(Declining) for x in qkv()]
    with pytest.raises(TypeError, match="returned NotImplemented") as expected:
        TORCHS(*arguments)
    with flashbench_attention(), pytest.raises(TypeError) as actual:
        F.scaled_dot_product_attention(*arguments)
    assert str(actual.value).splitlines()[0] == str(expected.value).splitlines()[0]
    assert stats() == (0, 0, {})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_jagged_tensors_are_pytorchs() -> None:
    def call() -> Any:
        parts = [normal(n, 2, 4, seed=n) for n in (3, 5)]
        x = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x).transpose(1, 2).values()

    expected = call()
    with flashbench_attention():
        torch.testing.assert_close(call(), expected, rtol=0, atol=1e-12)


class Seeing(TorchFunctionMode):
    """Records the calls of PyTorch's function, recognised as torch.nn.functional's attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append((func, len(args), kwargs))
        return func(*args, **(kwargs or {}))


@EVERY_ATTENTION
def test_modes_see_a_call_as_outside_and_it_is_computed_here(attention: str) -> None:
    def call() -> tuple[list[Any], Any]:
        with Seeing() as outer, Seeing() as inner:
            o = F.scaled_dot_product_attention(*qkv(), is_causal=True, scale=0.3)
        assert outer.seen == inner.seen
        return outer.seen, o

    outside, expected = call()
    with flashbench_attention(attention):
        inside, actual = call()
    assert inside == outside == [(TORCHS, 3, {"is_causal": True, "scale": 0.3})]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert stats() == (attention in ("flash", "standard"), 0, {})


def test_modes_see_a_causal_bias_and_then_what_it_passes_on() -> None:
    def call() -> list[Any]:
        with Seeing() as mode:
            F.scaled_dot_product_attention(*qkv(9), causal_upper_left(5, 9))
        return mode.seen

    outside = call()
    with flashbench_attention():
        assert [seen[0] for seen in call()] == [seen[0] for seen in outside]
    assert stats() == (1, 0, {})


def test_a_mode_that_computes_attention_itself_is_counted() -> None:
    class Computing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return "computed" if func is TORCHS else func(*args, **(kwargs or {}))

    with flashbench_attention(), Computing():
        assert F.scaled_dot_product_attention(*qkv()) == "computed"
    assert stats() == (0, 0, {"a mode, Computing, that overrides PyTorch's functions": 1})


def test_a_mode_that_fails_leaves_nothing_behind() -> None:
    class Failing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise ZeroDivisionError

    with flashbench_attention(), pytest.raises(ZeroDivisionError), Failing():
        F.scaled_dot_product_attention(*qkv())
    assert stats() == (0, 0, {})


def test_a_mode_of_ours_that_an_exception_left_behind_does_nothing() -> None:
    """Two signals whose handlers raise may leave it behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overrides, "_remove", lambda mode: None)
        with flashbench_attention():
            F.scaled_dot_product_attention(*qkv(5), causal_upper_left(5, 5))
    try:
        before = stats()
        F.scaled_dot_product_attention(*qkv())
        assert stats() == before
    finally:
        torch._C._pop_torch_function_stack()


def test_a_default_device_overrides_nothing() -> None:
    with flashbench_attention(), torch.device("cpu"):
        F.scaled_dot_product_attention(*qkv())
    assert stats() == (1, 0, {})


def test_a_reference_of_before_is_pytorchs() -> None:
    with flashbench_attention():
        torch.testing.assert_close(TORCHS(*qkv()), F.scaled_dot_product_attention(*qkv()))
    assert stats().forwards == 1


def test_what_others_put_in_the_place_stays_there() -> None:
    with flashbench_attention(), pytest.MonkeyPatch.context() as monkeypatch:
        ours = F.scaled_dot_product_attention

        def theirs(*arguments: Any, **named: Any) -> Any:
            return ours(*arguments, **named)

        monkeypatch.setattr(F, "scaled_dot_product_attention", theirs)
        with Seeing():
            F.scaled_dot_product_attention(*qkv())
        assert F.scaled_dot_product_attention is theirs


def test_a_block_that_ends_while_another_threads_call_is_overridden() -> None:
    """Another block begins too. After the call, the attention that was requested last is in place."""
    inside, go_on = threading.Event(), threading.Event()

    class Waiting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is TORCHS:
                inside.set()
                assert go_on.wait(60)
            return func(*args, **(kwargs or {}))

    def work() -> None:
        with Waiting():
            F.scaled_dot_product_attention(*qkv())

    def begun() -> threading.Thread:
        inside.clear()
        go_on.clear()
        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(60)
        return thread

    with flashbench_attention():
        thread = begun()
        with flashbench_attention("standard"):
            go_on.set()
            thread.join()
            assert F.scaled_dot_product_attention is ATTENTIONS["standard"]
        thread = begun()
    go_on.set()
    thread.join()
    assert F.scaled_dot_product_attention is TORCHS
    assert stats() == (2, 0, {})


class Model(torch.nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@EVERY_ATTENTION
def test_symbolic_tracing_finds_pytorchs_function(attention: str) -> None:
    outside = torch.fx.symbolic_trace(Model())
    with flashbench_attention(attention):
        inside = torch.fx.symbolic_trace(Model())
    assert [node.target for node in inside.graph.nodes if node.op == "call_function"] == [TORCHS]
    assert inside.code == outside.code
    ours = attention in ("flash", "standard")
    assert stats() == (0, 0, {"tensors of type Proxy": 1} if ours else {})


@EVERY_ATTENTION
def test_torchscript_compiles_pytorchs_function(attention: str) -> None:
    expected = Model()(*qkv())
    layer = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    x = normal(2, 5, 4)
    wanted = layer(x, x, x, need_weights=False)[0]
    with flashbench_attention(attention):
        torch.testing.assert_close(torch.jit.script(Model())(*qkv()), expected, rtol=0, atol=1e-12)
        actual = torch.jit.script(layer)(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)
    assert stats() == (0, 0, {})
