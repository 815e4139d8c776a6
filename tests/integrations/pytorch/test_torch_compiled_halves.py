"""bfloat16 and float16 under opcheck, fake tensors, torch.compile and torch.export."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_halves import HALVES
from helpers.torch_tensors import normal
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from flashbench.integrations.torch import attention, ops, scaled_dot_product_attention, stats
from flashbench.integrations.torch.options import Options

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]
EVERY_HALF = pytest.mark.parametrize("dtype", HALVES, ids=str)
EVERY_ENGINE = pytest.mark.parametrize("engine", ["flash", "standard"])
BACKENDS = pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.grid)])


def qkv(dtype: Any, rows: int = 6, keys: int = 9) -> list[Any]:
    shapes = (2, 4, rows, 8), (2, 2, keys, 8), (2, 2, keys, 5)
    return [normal(*shape, seed=seed).to(dtype).requires_grad_() for seed, shape in enumerate(shapes)]


def options(name: str, dtype: Any, engine: str) -> Options:
    mask, sinks = normal(6, 9, seed=5), normal(4, seed=6)
    return {
        "plain": Options(engine=engine),
        "its dtype": Options(mask=mask.to(dtype), sinks=sinks.to(dtype), engine=engine),
        "float32": Options(
            mask=mask.float(), sinks=sinks.float(), softcap=2.0, causal=True, dropout=0.2,
            dropout_seed=torch.tensor(2**40), engine=engine,
        ),
    }[name]  # fmt: skip


@pytest.mark.grid
@EVERY_HALF
@EVERY_ENGINE
@pytest.mark.parametrize("name", ["plain", "its dtype", "float32"])
def test_opcheck(name: str, engine: str, dtype: Any) -> None:
    """PyTorch's own checks of both operators: schema, fakes with dtypes and strides, gradients, compilers."""
    given = options(name, dtype, engine)
    by_rows = [x.detach() for x in qkv(dtype)]
    by_heads = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in by_rows]
    for tensors in (by_rows, by_heads):
        found = opcheck(ops.attention, (*(x.requires_grad_() for x in tensors), True, *given))
        assert set(found.values()) == {"SUCCESS"}, found
        q, k, v = (x.detach() for x in tensors)
        o, lse, p = ops.attention(q, k, v, True, *given)
        do = normal(*o.shape, seed=9).to(dtype)
        mask_gradient = given.mask is not None
        found = opcheck(ops.attention_backward, (do, q, k, v, o, lse, p, mask_gradient, *given))
        assert set(found.values()) == {"SUCCESS"}, found


@EVERY_HALF
@EVERY_ENGINE
def test_fake_tensors_have_the_dtypes_of_real_ones(engine: str, dtype: Any) -> None:
    given = options("its dtype", dtype, engine)

    def dtypes() -> list[Any]:
        leaves = [x.detach().requires_grad_() for x in qkv(dtype)]
        mask = torch.zeros(6, 9, dtype=dtype, requires_grad=True)
        found = ops.attention(*leaves, True, *given._replace(mask=mask, sinks=None))
        return [x.dtype for x in (*found, *torch.autograd.grad(found[0].sum(), (*leaves, mask)))]

    real = dtypes()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert dtypes() == real == [dtype, torch.float32, torch.float32, *[dtype] * 4]


@BACKENDS
@EVERY_HALF
@EVERY_ENGINE
def test_forward_and_backward(engine: str, dtype: Any, backend: str) -> None:
    """Compiled code calls the same kernels on the same numbers: bits are equal."""

    def model(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return scaled_dot_product_attention(-q, k, v, mask, enable_gqa=True, engine=engine)

    leaves = [*qkv(dtype), normal(6, 9, seed=5).to(dtype).requires_grad_()]
    found = []
    for function in (model, torch.compile(model, fullgraph=True, backend=backend)):
        o = function(*leaves)
        found.append([o, *torch.autograd.grad(o.sum(), leaves)])
    for actual, expected in zip(*found, strict=True):
        assert actual.dtype is dtype
        assert torch.equal(actual, expected)
    assert stats() == (2, 2, {})


@EVERY_HALF
def test_dynamic_shapes_are_compiled_once(dtype: Any) -> None:
    graphs = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def call(q: Any, k: Any, v: Any) -> Any:
        return attention(q, k, v, causal=True, window=(4, 0), softcap=3.0)

    function = torch.compile(call, fullgraph=True, dynamic=True, backend=counting)
    with torch.no_grad():
        for length in (6, 9, 17):  # the same as no other size
            leaves = [x.detach() for x in qkv(dtype, length, length)]
            assert torch.equal(function(*leaves), call(*leaves))
    assert len(graphs) == 1


@EVERY_HALF
@BACKENDS
def test_dropout_follows_pytorchs_generator(backend: str, dtype: Any) -> None:
    function = torch.compile(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, dropout_p=0.5, enable_gqa=True),
        fullgraph=True,
        backend=backend,
    )
    leaves = qkv(dtype, 12, 12)
    torch.manual_seed(3)
    first, second = function(*leaves), function(*leaves)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(function(*leaves), first)


@EVERY_HALF
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool, dtype: Any) -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return scaled_dot_product_attention(q, k, v, enable_gqa=True)

    arguments = tuple(x.detach() for x in qkv(dtype))
    program = torch.export.export(Model(), arguments, strict=strict)
    assert "flashbench.attention" in str(program.graph)
    assert torch.equal(program.module()(*arguments), Model()(*arguments))
