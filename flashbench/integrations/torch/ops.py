"""Attention and its backward as PyTorch operators, so that autograd, `torch.compile` and export know them.

Tensors go in and out without a copy: what the engines see are views of the tensors' memory, and the other
way round. Each operator has a fake kernel too, which gives shapes and strides without computing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashbench.arguments import Call, prepare
from flashbench.engines import Array, Forward
from flashbench.engines.standard import Kept
from flashbench.integrations.torch.options import SCHEMA, Options
from flashbench.integrations.torch.runtime import num_threads
from flashbench.integrations.torch.statistics import counted
from flashbench.problem import Direction

_TENSORS = "Tensor q, Tensor k, Tensor v"


@torch.library.custom_op(
    "flashbench::attention",
    mutates_args=(),
    schema=f"({_TENSORS}, bool keep, {SCHEMA}) -> (Tensor o, Tensor lse, Tensor p)",
)
def attention(q: Tensor, k: Tensor, v: Tensor, keep: bool, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """o, lse, and P where the engine keeps it for its backward; elsewhere p has no numbers.

    q, k, v: (batch, heads, seqlen, head_dim), laid out as `laid_out` does. keep: a backward will follow.
    """
    given = Options(*options)
    forward = _call("fwd", q, k, v, given).forward(keep=keep and given.keeps_p)
    counted("forward")
    p = q.new_empty(0)
    if keep and given.keeps_p:
        p = torch.from_numpy(forward.saved.p).view(_p_shape(q, k))
    assert forward.lse is not None  # engines without are refused before
    return torch.from_numpy(forward.o), torch.from_numpy(forward.lse), p


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, keep: bool, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    p = _p_shape(q, k) if keep and Options(*options).keeps_p else (0,)
    return _empty_like(q, v.shape[3]), q.new_empty(q.shape[:3]), q.new_empty(p)


@torch.library.custom_op(
    "flashbench::attention_backward",
    mutates_args=(),
    schema=(
        f"(Tensor do, {_TENSORS}, Tensor o, Tensor lse, Tensor p, bool mask_gradient, {SCHEMA})"
        " -> (Tensor dq, Tensor dk, Tensor dv, Tensor dmask, Tensor dsinks)"
    ),
)
def attention_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, p: Tensor, mask_gradient: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv; dmask where it is asked for and dsinks where there are sinks, elsewhere no numbers."""
    call = _call("bwd", q, k, v, Options(*options))
    saved = Kept(array(p).reshape(-1)) if p.numel() else None
    forward = Forward(array(o), array(lse), saved)
    found = call.backward(array(do), forward, return_dmask=mask_gradient)
    counted("backward")
    dq, dk, dv = map(torch.from_numpy, found)
    dmask, dsinks = (
        q.new_empty(0) if x is None else torch.from_numpy(x) for x in (found.dmask, found.dsinks)
    )
    return dq, dk, dv, dmask, dsinks


@attention_backward.register_fake
def _(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, p: Tensor, mask_gradient: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = Options(*options)
    dmask = given.mask.new_empty(given.mask.shape) if mask_gradient and given.mask is not None else None
    dsinks = None if given.sinks is None else given.sinks.new_empty(given.sinks.shape)
    rest = (q.new_empty(0) if x is None else x for x in (dmask, dsinks))
    return (*(_empty_like(x, x.shape[3]) for x in (q, k, v)), *rest)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, _, *options = inputs
    given = Options(*options)
    ctx.save_for_backward(q, k, v, *output, *given[:5])
    ctx.options = given[5:]
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, do: Tensor, *_: Any) -> tuple[Any, ...]:
    q, k, v, o, lse, p, *tensors = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    mask_at, sinks_at = 4, 6  # q, k, v, keep, mask, alibi_slopes, sinks
    dq, dk, dv, dmask, dsinks = attention_backward(
        laid_out(do), q, k, v, o, lse, p, wanted[mask_at], *tensors, *ctx.options
    )
    return (
        dq, dk, dv, None,
        dmask if wanted[mask_at] else None, None, dsinks if wanted[sinks_at] else None,
        *(None,) * 10,
    )  # fmt: skip


attention.register_autograd(_backward, setup_context=_remember)


def laid_out(x: Tensor) -> Tensor:
    """The tensor itself where its rows are contiguous, whatever lies between them; else a copy."""
    return x if x.stride(3) == 1 else x.contiguous()


def array(x: Tensor) -> Array:
    """The tensor's memory."""
    found: Array = x.detach().numpy()
    return found


def _call(direction: Direction, q: Tensor, k: Tensor, v: Tensor, given: Options) -> Call:
    options: dict[str, Any] = given._asdict()
    window = options.pop("window_left"), options.pop("window_right")
    seed = options.pop("dropout_seed")
    options = {name: array(x) if isinstance(x, Tensor) else x for name, x in options.items()}
    return prepare(
        direction,
        array(q),
        array(k),
        array(v),
        window=window,
        dropout_seed=None if seed is None else int(seed) % 2**64,
        num_threads=num_threads(),
        **options,
    )


def _empty_like(x: Tensor, head_dim: int) -> Tensor:
    """In x's order of memory, as `engines.launch.result_like` has it."""
    batch, heads, rows, _ = x.shape
    if 0 < x.stride(1) < x.stride(2):
        return x.new_empty(batch, rows, heads, head_dim).transpose(1, 2)
    return x.new_empty(batch, heads, rows, head_dim)


def _p_shape(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    return q.shape[0], q.shape[1], q.shape[2], k.shape[2]
