"""Under autocast attention runs in autocast's dtype, as PyTorch's own does; gradients have the inputs'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from helpers.torch_halves import HALVES
from helpers.torch_tensors import normal

from flashbench.integrations.torch import (
    attention,
    flashbench_attention,
    ops,
    scaled_dot_product_attention,
    stats,
)
from flashbench.integrations.torch.functional import torch_sdpa
from flashbench.integrations.torch.options import Options

EVERY_HALF = pytest.mark.parametrize("dtype", HALVES, ids=str)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The distutils package is deprecated:DeprecationWarning"),
]


def qkv(dtype: Any = torch.float32) -> list[Any]:
    return [normal(2, 2, 12, 8, seed=seed).to(dtype).requires_grad_() for seed in range(3)]


def by_operator(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return ops.attention(q, k, v, True, *Options(mask=mask))[0]


WAYS: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "attention": lambda q, k, v, mask=None: attention(q, k, v, mask=mask),
    "operator": by_operator,
}
EVERY_WAY = pytest.mark.parametrize("name", WAYS)


@EVERY_WAY
@EVERY_HALF
def test_it_is_attention_of_cast_tensors(name: str, dtype: Any) -> None:
    leaves = qkv()
    cast = [x.detach().to(dtype).requires_grad_() for x in leaves]
    with torch.autocast("cpu", dtype):
        o = WAYS[name](*leaves)
        theirs = torch_sdpa(*leaves)
    expected = WAYS[name](*cast)
    assert o.dtype is theirs.dtype is dtype
    assert torch.equal(o, expected)
    do = normal(*o.shape, seed=9).to(dtype)
    found = torch.autograd.grad(o, leaves, do)
    for actual, should in zip(found, torch.autograd.grad(expected, cast, do), strict=True):
        assert actual.dtype is torch.float32
        assert torch.equal(actual, should.float())
    assert stats() == (2, 2, {})


@EVERY_WAY
def test_a_mask_of_float32_is_not_rounded(name: str) -> None:
    """PyTorch rounds it."""
    mask = (normal(12, 12, seed=5) * 10).float().requires_grad_()
    leaves = qkv()
    with torch.autocast("cpu", torch.bfloat16):
        o = WAYS[name](*leaves, mask)
    cast = [x.detach().bfloat16() for x in leaves]
    assert torch.equal(o, WAYS[name](*cast, mask))
    assert not torch.equal(o, WAYS[name](*cast, mask.bfloat16()))
    (dmask,) = torch.autograd.grad(o.float().square().sum(), mask)
    assert dmask.dtype is torch.float32


@EVERY_WAY
def test_tensors_of_several_dtypes_become_one(name: str) -> None:
    q, k, v = qkv()
    mixed = q, k.half(), v.bfloat16(), torch.zeros(12, 12, dtype=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        o = WAYS[name](*mixed)
    assert torch.equal(o, WAYS[name](*(x.bfloat16() for x in mixed)))
    assert stats().fallbacks == {}


@EVERY_WAY
def test_float64_is_left_alone_as_by_pytorch(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        o = WAYS[name](*qkv(torch.float64))
        assert torch_sdpa(*qkv(torch.float64)).dtype is torch.float64
    assert torch.equal(o, WAYS[name](*qkv(torch.float64)))


@EVERY_WAY
def test_a_block_without_autocast_inside(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        assert WAYS[name](*qkv()).dtype is torch.float32


def test_what_falls_back_gets_the_same_tensors() -> None:
    q, k, v = qkv()
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="broadcast"):
        o = scaled_dot_product_attention(q, k[:1], v[:1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(o, torch_sdpa(q, k[:1], v[:1]))


@pytest.mark.parametrize("backward_inside", [False, True])
def test_training_of_a_layer(backward_inside: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True)
    x = normal(2, 30, 32).float()

    def step() -> list[Any]:
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(x).float().square().mean()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in layer.parameters())]

    expected = step()
    with flashbench_attention():
        found = step()
    assert stats() == (1, 1, {})
    for actual, should in zip(found, expected, strict=True):
        assert actual.dtype is torch.float32
        torch.testing.assert_close(actual, should, rtol=0.02, atol=0.02 * float(should.abs().max()))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("dtype", "inside"), [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, True)]
)
@EVERY_WAY
def test_compiled_as_a_whole(name: str, dtype: Any, inside: bool) -> None:
    """Autocast within the compiled code, or around it. Without it, the code is compiled anew."""

    def call(q: Any, k: Any, v: Any) -> Any:
        if not inside:
            return WAYS[name](2 * q, k, v)
        with torch.autocast("cpu", dtype):
            return WAYS[name](2 * q, k, v)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    leaves = qkv()
    found = []
    for function in (call, compiled):
        with torch.autocast("cpu", dtype, enabled=not inside):
            o = function(*leaves)
        found.append([o, *torch.autograd.grad(o.square().sum(), leaves)])
    assert found[0][0].dtype is dtype
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual, expected)
    if not inside:
        assert compiled(*leaves).dtype is torch.float32
    assert stats().fallbacks == {}


@EVERY_HALF
def test_export_holds_the_casts(dtype: Any) -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            with torch.autocast("cpu", dtype):
                return scaled_dot_product_attention(q, k, v)

    arguments = tuple(x.detach() for x in qkv())
    program = torch.export.export(Model(), arguments)
    assert torch.equal(program.module()(*arguments), Model()(*arguments))
    assert program.module()(*arguments).dtype is dtype
