"""torch.compile(fullgraph=True) and torch.export, with dropout, masks, fallbacks and shapes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_tensors import normal

from flashbench.integrations.torch import (
    ATTENTIONS,
    attention,
    flashbench_attention,
    scaled_dot_product_attention,
    stats,
)
from flashbench.integrations.torch.functional import torch_sdpa

F = torch.nn.functional
# PyTorch's compiler warns at its import about PyTorch's own code, and about Python's modules.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]
BACKENDS = pytest.mark.parametrize("backend", ["aot_eager", "inductor"])


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A compiler cache for this session, without code that earlier sessions compiled from other sources."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


def compiled(function: Callable[..., Any], backend: str = "aot_eager", **options: Any) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend=backend, **options)


def qkv(length: int = 5, heads: int = 2) -> list[Any]:
    return [normal(2, heads, length, 4, seed=seed).requires_grad_() for seed in range(3)]


def assert_compiles(
    function: Callable[..., Any],
    expected: Callable[..., Any],
    leaves: list[Any],
    backend: str,
    **options: Any,
) -> None:
    """Assert that outputs and gradients equal those of `expected`, uncompiled, and that our operators ran."""
    before = stats()
    o = compiled(function, backend, **options)(*leaves)
    wanted = [x for x in leaves if x.requires_grad]
    found = [o, *torch.autograd.grad(o.square().sum(), wanted)]
    after = stats()
    assert (after.forwards, after.backwards) == (before.forwards + 1, before.backwards + 1)
    assert o.stride() == function(*leaves).stride()
    o = expected(*leaves)
    for actual, should in zip(found, [o, *torch.autograd.grad(o.square().sum(), wanted)], strict=True):
        torch.testing.assert_close(actual, should, rtol=0, atol=1e-10)


@pytest.mark.grid
@BACKENDS
@pytest.mark.parametrize("engine", ["flash", "standard"])
def test_forward_and_backward(backend: str, engine: str) -> None:
    def model(q: Any, k: Any, v: Any) -> Any:
        return scaled_dot_product_attention(2 * q, k, v, is_causal=True, engine=engine) + 1

    def expected(q: Any, k: Any, v: Any) -> Any:
        return torch_sdpa(2 * q, k, v, is_causal=True) + 1

    assert_compiles(model, expected, qkv(), backend)


@BACKENDS
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks(backend: str, kind: str) -> None:
    mask = normal(5, 5, seed=5)
    mask = mask > -0.5 if kind == "bool" else mask.requires_grad_()
    if kind == "bool":
        mask[:, 0] = True
    assert_compiles(scaled_dot_product_attention, torch_sdpa, [*qkv(), mask], backend)


@BACKENDS
def test_heads_of_a_projection(backend: str) -> None:
    """Inputs and outputs are views whose strides a compiler must not change."""

    def model(function: Callable[..., Any], x: Any) -> Any:
        q, k, v = (y.view(2, 5, 2, 4).transpose(1, 2) for y in (x, x.sin(), x.cos()))
        return function(q, k, v).transpose(1, 2).reshape(2, 5, 8)

    x = normal(2, 5, 8).requires_grad_()
    assert_compiles(
        lambda x: model(scaled_dot_product_attention, x), lambda x: model(torch_sdpa, x), [x], backend
    )


@BACKENDS
def test_every_option_of_attention(backend: str) -> None:
    sinks = normal(2, seed=6).requires_grad_()
    lengths = torch.tensor([5, 3])

    def model(q: Any, k: Any, v: Any, sinks: Any) -> Any:
        return attention(
            q, k, v, sinks=sinks, window=(2, 0), softcap=3.0, key_lengths=lengths, causal=True
        )  # fmt: skip

    assert_compiles(model, model, [*qkv(), sinks], backend)


def test_dynamic_shapes_are_compiled_once() -> None:
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    function = torch.compile(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
        fullgraph=True,
        dynamic=True,
        backend=counting,
    )
    for length in (5, 9, 17):
        with torch.no_grad():
            leaves = [x.detach() for x in qkv(length)]
            torch.testing.assert_close(function(*leaves), torch_sdpa(*leaves, is_causal=True))
    assert len(graphs) == 1


@BACKENDS
def test_dynamic_shapes_with_gradients(backend: str) -> None:
    function = compiled(scaled_dot_product_attention, backend, dynamic=True)
    for length in (6, 11, 3):
        leaves = qkv(length)
        o = function(*leaves)
        expected = torch_sdpa(*leaves)
        torch.testing.assert_close(o, expected, rtol=0, atol=1e-10)
        for actual, should in zip(
            torch.autograd.grad(o.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(actual, should, rtol=0, atol=1e-10)


@BACKENDS
def test_dropout_differs_from_call_to_call_and_follows_the_seed(backend: str) -> None:
    function = compiled(lambda q, k, v: scaled_dot_product_attention(q, k, v, dropout_p=0.5), backend)
    leaves = qkv(12)
    torch.manual_seed(3)
    first, second = function(*leaves), function(*leaves)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(function(*leaves), first)
    # The backward drops what the forward dropped: the gradient of v, for a linear function of o, shows it.
    do = normal(*first.shape, seed=9)
    (dv,) = torch.autograd.grad(first, leaves[2], do)
    torch.testing.assert_close((dv * leaves[2]).sum(), (first * do).sum())


@pytest.mark.grid
@BACKENDS
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_model_that_knows_nothing_of_flashbench(backend: str, attention: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    x = normal(2, 5, 8)

    def call(x: Any) -> Any:
        return model(x, x, x, need_weights=False)[0]

    expected = call(x)
    with flashbench_attention(attention):
        actual = compiled(call, backend)(x)
        actual.sum().backward()
    ours = attention in ("flash", "standard")
    assert stats() == (ours, ours, {})
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_code_compiled_before_is_compiled_anew() -> None:
    """A compiled function must not keep calling the attention that was in place when it was compiled."""
    function = compiled(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    leaves = [x.detach() for x in qkv()]
    function(*leaves)
    assert stats().forwards == 0
    with flashbench_attention():
        function(*leaves)
        assert stats().forwards == 1
    function(*leaves)
    assert stats().forwards == 1


FALLBACKS: dict[str, tuple[Callable[..., Any], str]] = {
    "broadcast": (lambda f, q, k, v: f(q, k[:1], v[:1]), "broadcast"),
    "dropout of 1": (lambda f, q, k, v: f(q, k, v, dropout_p=1.0), "dropout_p of 1"),
    "scale": (lambda f, q, k, v: f(q, k, v, scale=float("inf")), "scale that is not finite"),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_fallbacks_do_not_break_the_graph(name: str) -> None:
    call, reason = FALLBACKS[name]
    leaves = [x.detach() for x in qkv()]
    function = compiled(lambda q, k, v: call(scaled_dot_product_attention, q, k, v))
    with pytest.warns(UserWarning, match=reason):
        actual = function(*leaves)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(actual, function(*leaves), equal_nan=True)
    torch.testing.assert_close(actual, call(torch_sdpa, *leaves), equal_nan=True, rtol=1e-3, atol=1e-3)
    (counted,) = stats().fallbacks.items()
    assert reason in counted[0]
    assert counted[1] == 1  # when it was traced


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of PyTorch's own function under vmap
@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_transforms_of_torch_func_fall_back(transform: str) -> None:
    leaves = [normal(3, 2, 2, 5, 4, seed=seed) for seed in range(3)]

    def transformed(function: Callable[..., Any]) -> Callable[..., Any]:
        if transform == "vmap":
            return torch.vmap(function)
        return torch.func.grad(lambda q, k, v: function(q, k, v).square().sum())

    with pytest.warns(UserWarning, match="torch.func"):
        actual = compiled(transformed(scaled_dot_product_attention))(*leaves)
    torch.testing.assert_close(actual, transformed(torch_sdpa)(*leaves), rtol=0, atol=1e-10)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
            return scaled_dot_product_attention(q, k, v, mask)

    arguments = (*(x.detach() for x in qkv()), normal(5, 5, seed=5) > -0.5)
    dynamic = torch.export.Dim("length", min=2, max=100)
    axes = [{2: dynamic}] * 3 + [{0: dynamic, 1: dynamic}]
    program = torch.export.export(Model(), arguments, dynamic_shapes=axes, strict=strict)
    assert "flashbench.attention" in str(program.graph)
    longer = (*(x.detach() for x in qkv(9)), torch.ones(9, 9, dtype=torch.bool))
    for given in (arguments, longer):
        torch.testing.assert_close(program.module()(*given), torch_sdpa(*given), rtol=0, atol=1e-10)


def test_export_of_dropout_and_a_model() -> None:
    """Dropout's seed stays an operation in the graph, and does not become a constant."""

    class Model(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)

    arguments = tuple(x.detach() for x in qkv(12))
    with flashbench_attention():
        program = torch.export.export(Model(), arguments)
    module = program.module()
    assert not torch.equal(module(*arguments), module(*arguments))
