"""The operators pass PyTorch's own checks (opcheck, gradcheck), with every option of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers.support import assert_close
from helpers.torch_halves import HALVES
from helpers.torch_tensors import normal
from torch.library import opcheck

from flashbench.engines.flash.engine import FlashEngine
from flashbench.engines.standard import StandardEngine
from flashbench.errors import AttentionError, EngineError, FlashbenchError, UnsupportedError
from flashbench.extras import Extras
from flashbench.extras import alibi_slopes as slopes_of
from flashbench.integrations.torch import attention, ops, stats
from flashbench.integrations.torch.options import Options
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import tolerance_for

SHAPE, KEYS = (2, 4, 5, 4), (2, 2, 7, 4)


def inputs() -> list[Any]:
    return [normal(*shape, seed=seed) for seed, shape in enumerate((SHAPE, KEYS, (*KEYS[:3], 6)))]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "top-left": {"causal": True, "causal_alignment": "top-left", "softmax_scale": 0.3},
    "window": {"window_left": 2, "window_right": 1},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi_slopes": torch.from_numpy(slopes_of(4))},
    "bool mask": {"mask": normal(5, 7, seed=5) > -1.0},
    "float mask": {"mask": normal(2, 1, 5, 7, seed=5)},
    "sinks": {"sinks": normal(4, seed=6)},
    "key lengths": {"key_lengths": torch.tensor([7, 3])},
    "dropout": {"dropout": 0.4, "dropout_seed": torch.tensor(3)},
    "everything": {
        "causal": True,
        "softcap": 2.0,
        "sinks": normal(4, seed=6),
        "mask": normal(5, 7, seed=5),
        "dropout": 0.2,
        "dropout_seed": torch.tensor(2**40),
    },
}
EVERY_OPTION = pytest.mark.parametrize("named", OPTIONS.values(), ids=OPTIONS)
EVERY_ENGINE = pytest.mark.parametrize("engine", ["flash", "standard"])


def views_by_heads(tensors: list[Any]) -> list[Any]:
    return [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors]


def orders(named: dict[str, Any]) -> list[list[Any]]:
    """Inputs in the memory order (batch, heads, seqlen), and once heads last, which fakes must know too."""
    return [inputs()] if named else [inputs(), views_by_heads(inputs())]


@pytest.mark.grid
@EVERY_ENGINE
@pytest.mark.parametrize(
    ("name", "keep"), [*((name, True) for name in OPTIONS), ("plain", False), ("everything", False)]
)
def test_opcheck_of_the_forward(engine: str, name: str, keep: bool) -> None:
    named = OPTIONS[name]
    options = Options(engine=engine, **named)
    for tensors in orders(named):
        wanted = [x.requires_grad_(keep) for x in tensors]
        found = opcheck(ops.attention, (*wanted, keep, *options))
        assert set(found.values()) == {"SUCCESS"}, found


@pytest.mark.grid
@EVERY_OPTION
@EVERY_ENGINE
def test_opcheck_of_the_backward(engine: str, named: dict[str, Any]) -> None:
    options = Options(engine=engine, **named)
    for tensors in orders(named):
        o, lse, p = ops.attention(*tensors, True, *options)
        assert (p.numel() > 0) == options.keeps_p
        mask_gradient = options.mask is not None and options.mask.is_floating_point()
        do = normal(*o.shape, seed=9)
        found = opcheck(ops.attention_backward, (do, *tensors, o, lse, p, mask_gradient, *options))
        assert set(found.values()) == {"SUCCESS"}, found


def test_opcheck_of_a_mask_and_sinks_with_gradients() -> None:
    mask, sinks = normal(5, 7, seed=5).requires_grad_(), normal(4, seed=6).requires_grad_()
    wanted = [x.requires_grad_() for x in inputs()]
    found = opcheck(ops.attention, (*wanted, True, *Options(mask=mask, sinks=sinks)))
    assert set(found.values()) == {"SUCCESS"}, found


@pytest.mark.grid
@EVERY_OPTION
@EVERY_ENGINE
def test_gradcheck(engine: str, named: dict[str, Any]) -> None:
    """By q, k, v, a float mask and sinks, against finite differences, with the operators and without."""
    named = dict(named)
    window = named.pop("window_left", None), named.pop("window_right", None)
    by = [name for name in ("mask", "sinks") if name in named and named[name].is_floating_point()]
    leaves = [x.requires_grad_() for x in (*inputs(), *(named[name].clone() for name in by))]

    def function(q: Any, k: Any, v: Any, *more: Any) -> Any:
        return attention(
            q, k, v, engine=engine, window=window, **{**named, **dict(zip(by, more, strict=True))}
        )

    assert torch.autograd.gradcheck(function, leaves)
    with torch.autograd.profiler.profile():  # profiles name operators
        assert torch.autograd.gradcheck(function, leaves)


@EVERY_OPTION
@EVERY_ENGINE
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_against_the_oracle(dtype: Any, engine: str, named: dict[str, Any]) -> None:
    """The oracle is NumPy in float64, and has every feature. It gets the numbers as the dtype has them."""
    named = {name: _in(dtype, x) for name, x in named.items()}
    leaves = [x.to(dtype).requires_grad_() for x in inputs()]
    o, gradients, do = computed(leaves, engine, named)
    named = {name: _in(torch.float64, x) for name, x in named.items()}
    arrays = {name: x.numpy() for name, x in named.items() if isinstance(x, torch.Tensor)}
    fields = {name: x for name, x in named.items() if not isinstance(x, torch.Tensor)}
    extras = Extras()
    if "mask" in arrays:
        mask = arrays["mask"]
        fields |= {
            "mask": "bool" if mask.dtype == bool else "float",
            "mask_axes": "bqk" if mask.ndim == 4 else "qk",
        }
        extras = extras._replace(mask=np.broadcast_to(mask, (*SHAPE[:3], KEYS[2])))
    if "alibi_slopes" in arrays:
        fields["alibi"] = True
        extras = extras._replace(alibi_slopes=np.broadcast_to(arrays["alibi_slopes"], SHAPE[:2]))
    if "sinks" in arrays:
        fields["sinks"] = True
        extras = extras._replace(sinks=arrays["sinks"])
    if "dropout_seed" in arrays:
        fields["dropout_seed"] = int(arrays["dropout_seed"])
    if "key_lengths" in arrays:
        fields["key_lengths"] = tuple(arrays["key_lengths"].tolist())
    problem = AttentionProblem(
        batch=2, num_heads=4, num_kv_heads=2, seqlen_q=5, seqlen_k=7, head_dim=4, head_dim_v=6,
        dtype="float64", **{"causal": False} | fields,
    )  # fmt: skip
    q, k, v, do = (x.detach().double().numpy() for x in (*leaves, do))
    expected = attention_reference(problem, q, k, v, extras)[0]
    # P and dS may be rounded to the dtype, and then the result.
    tolerance = tolerance_for("float64", "o") if dtype is torch.float64 else 4 * torch.finfo(dtype).eps
    assert_close(o.double().numpy(), expected, tolerance)
    wanted = attention_backward_reference(problem, do, q, k, v, extras)
    tolerance = 1e-10 if dtype is torch.float64 else 16 * torch.finfo(dtype).eps
    for actual, gradient in zip(gradients, wanted, strict=False):
        assert actual.dtype is dtype
        assert_close(actual.double().numpy(), gradient, tolerance)


def _in(dtype: Any, x: Any) -> Any:
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def computed(leaves: list[Any], engine: str, named: dict[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
    """o, gradients by the leaves, and the gradient of o."""
    window = named.get("window_left"), named.get("window_right")
    rest = {name: x for name, x in named.items() if not name.startswith("window")}
    o = attention(*leaves, engine=engine, window=window, **rest)
    do = normal(*o.shape, seed=9).to(o.dtype)
    return o.detach(), torch.autograd.grad(o, leaves, do), do


@EVERY_ENGINE
def test_the_backward_of_standard_finds_p_and_none_is_kept_without_gradients(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    for kind in (FlashEngine, StandardEngine):
        forward = kind.forward

        def spy(self: Any, *arguments: Any, forward: Any = forward, **named: Any) -> Any:
            kept.append(named["keep"])
            return forward(self, *arguments, **named)

        monkeypatch.setattr(kind, "forward", spy)
    # Calls by addresses would not go through `forward`.
    monkeypatch.setattr("flashbench.integrations.torch.direct._addresses", lambda *_: None)
    attention(*inputs(), engine=engine)
    leaves = [x.requires_grad_() for x in inputs()]
    with torch.no_grad():
        attention(*leaves, engine=engine)
    assert kept == [False, False]
    attention(*leaves, engine=engine).sum().backward()
    assert kept[2:] == [engine == "standard"]  # and its backward called no forward again


@EVERY_ENGINE
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("through_operators", [False, True])
def test_engines_see_the_tensors_own_memory(
    engine: str, through_operators: bool, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy of q, k, v, the mask and do on the way in, nor of o and gradients on the way out."""
    seen: dict[str, Any] = {}
    kind = {"flash": FlashEngine, "standard": StandardEngine}[engine]
    forward, backward = kind.forward, kind.backward

    def address(x: Any) -> int:
        return int(x.__array_interface__["data"][0])

    def spy_forward(self: Any, problem: Any, settings: Any, q: Any, k: Any, v: Any, **named: Any) -> Any:
        seen.update(q=address(q), k=address(k), v=address(v), mask=address(named["extras"].mask))
        found = forward(self, problem, settings, q, k, v, **named)
        seen["o"] = address(found.o)
        return found

    def spy_backward(self: Any, problem: Any, settings: Any, do: Any, *arrays: Any, **named: Any) -> Any:
        seen["do"] = address(do)
        seen.update(zip(("bwd q", "bwd k", "bwd v"), map(address, arrays[:3]), strict=True))
        found = backward(self, problem, settings, do, *arrays, **named)
        seen.update(dq=address(found.dq), dmask=address(found.dmask))
        return found

    monkeypatch.setattr(kind, "forward", spy_forward)
    monkeypatch.setattr(kind, "backward", spy_backward)
    q, k, v = (x.requires_grad_() for x in views_by_heads([x.to(dtype) for x in inputs()]))
    mask = normal(5, 7).to(dtype if dtype is torch.float64 else torch.float32).requires_grad_()
    if through_operators:
        o = ops.attention(q, k, v, True, *Options(mask=mask, engine=engine))[0]
    else:
        o = attention(q, k, v, mask=mask, engine=engine)
    do = normal(*o.shape, seed=9).to(dtype)
    dq, dmask = torch.autograd.grad(o, (q, mask), do)
    tensors = {"q": q, "k": k, "v": v, "mask": mask, "o": o, "do": do, "dq": dq, "dmask": dmask}
    tensors |= {"bwd q": q, "bwd k": k, "bwd v": v}
    assert seen == {name: x.data_ptr() for name, x in tensors.items()}


@EVERY_ENGINE
def test_a_second_derivative_is_refused(engine: str) -> None:
    leaves = [x.requires_grad_() for x in inputs()]
    o = attention(*leaves, engine=engine)
    gradients = torch.autograd.grad(o.square().sum(), leaves, create_graph=True)
    with pytest.raises(UnsupportedError, match="no second derivative"):
        gradients[0].sum().backward()
    # Without one, create_graph=True changes nothing.
    plain = torch.autograd.grad(attention(*leaves, engine=engine).square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(gradients, plain, strict=True))


def test_what_was_saved_must_not_have_changed() -> None:
    q, k, v = (x.requires_grad_() for x in inputs())
    changed = k * 1
    o = attention(q, changed, v)
    changed.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()


def test_checkpointing_recomputes() -> None:
    from torch.utils.checkpoint import checkpoint

    leaves = [x.requires_grad_() for x in inputs()]
    plain = torch.autograd.grad(attention(*leaves).square().sum(), leaves)
    o = checkpoint(attention, *leaves, use_reentrant=False)
    for actual, expected in zip(torch.autograd.grad(o.square().sum(), leaves), plain, strict=True):
        assert torch.equal(actual, expected)


def test_profiles_name_the_operators() -> None:
    leaves = [x.requires_grad_() for x in inputs()]
    with torch.autograd.profiler.profile() as profile:
        attention(*leaves).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"flashbench::attention", "flashbench::attention_backward"} <= names


def test_fake_tensors_cost_no_attention() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = stats()
    with FakeTensorMode():
        leaves = [torch.empty(1, 2, 10**6, 64, requires_grad=True) for _ in range(3)]
        o = attention(*leaves, causal=True)
        assert o.shape == (1, 2, 10**6, 64)
        o.sum().backward()
    assert leaves[0].grad.shape == leaves[0].shape
    assert stats() == before


def test_a_mode_sees_the_operator() -> None:
    """Counting, tracing and debugging modes of PyTorch work on operators."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            seen.append(str(function))
            return function(*arguments, **(named or {}))

    with Recording():
        attention(*inputs())
    assert "flashbench.attention.default" in seen


@pytest.mark.parametrize(
    ("named", "message", "kind"),
    [
        ({"engine": "quick"}, "unknown engine 'quick'", AttentionError),
        ({"causal_alignment": "middle"}, "unknown causal_alignment 'middle'", AttentionError),
        ({"softcap": -1.0}, "softcap must be above 0", AttentionError),
        ({"dropout": 1.5}, "dropout must be at least 0", AttentionError),
        ({"mask": torch.ones(3, 3, dtype=torch.bool)}, "does not broadcast", AttentionError),
        ({"engine": "numpy", "softcap": 1.0}, "engine 'numpy'", UnsupportedError),
    ],
)
def test_errors_are_flashbenchs(named: dict[str, Any], message: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=message):
        attention(*inputs(), **named)


def test_dtypes_that_flashbench_has_not() -> None:
    with pytest.raises(AttentionError, match=r"q must be .*float64.*not complex64"):
        attention(*(x.to(torch.complex64) for x in inputs()))


def test_dimensions_that_flashbench_has_not() -> None:
    q, k, v = inputs()
    with pytest.raises(AttentionError, match=r"must be 4-D .*, not 4-D, 3-D and 4-D"):
        attention(q, k[0], v)


def test_tensors_that_are_not_in_memory() -> None:
    from flashbench.integrations.torch.arrays import as_stored

    with pytest.raises(FlashbenchError, match=r"q must be a CPU tensor .* not float32 on meta"):
        as_stored("q", torch.empty(3, device="meta"))


def test_an_unknown_attention_is_named() -> None:
    from flashbench.integrations.torch import find_attention

    with pytest.raises(
        EngineError, match=r"unknown attention 'fast'; known: flash, standard, torch-flash, torch-math"
    ):
        find_attention("fast")
