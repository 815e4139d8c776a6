"""Attention and its backward as PyTorch operators, for autograd, `torch.compile` and export.

Each operator also has a fake kernel, which gives shapes and strides without computing.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from flashbench.errors import UnsupportedError
from flashbench.integrations.torch.arrays import ACCUMULATORS
from flashbench.integrations.torch.autocast import autocast
from flashbench.integrations.torch.compute import compute_backward, compute_forward, laid_out, p_shape
from flashbench.integrations.torch.options import SCHEMA, TENSORS, Options

_TENSORS = "Tensor q, Tensor k, Tensor v"


@torch.library.custom_op(
    "flashbench::attention",
    mutates_args=(),
    schema=f"({_TENSORS}, bool keep, {SCHEMA}) -> (Tensor o, Tensor lse, Tensor p)",
)
def attention(q: Tensor, k: Tensor, v: Tensor, keep: bool, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """o, lse and P. P is empty unless `keep` is set and the engine keeps P for its backward.

    q, k, v: (batch, heads, seqlen, head_dim), with contiguous rows (`laid_out`).
    keep: a backward will follow.
    """
    o, lse, p = compute_forward(q, k, v, Options(*options), keep=keep)
    return o, lse, or_empty(p, lse)


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, keep: bool, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    p = p_shape(q, k) if keep and Options(*options).keeps_p else (0,)
    lse = q.new_empty(q.shape[:3], dtype=ACCUMULATORS[q.dtype])
    return _empty_like(q, v.shape[3]), lse, lse.new_empty(p)


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
    """dq, dk, dv, dmask and dsinks. dmask is empty without mask_gradient, dsinks is empty without sinks."""
    *found, dmask, dsinks = compute_backward(
        do, q, k, v, o, lse, p if p.numel() else None, Options(*options), mask_gradient=mask_gradient
    )
    dq, dk, dv = found
    dmask, dsinks = (or_empty(x, q) for x in (dmask, dsinks))
    return dq, dk, dv, dmask, dsinks


@attention_backward.register_fake
def _(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, p: Tensor, mask_gradient: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    given = Options(*options)
    dmask = given.mask.new_empty(given.mask.shape) if mask_gradient and given.mask is not None else None
    dsinks = None if given.sinks is None else given.sinks.new_empty(given.sinks.shape)
    rest = (or_empty(x, q) for x in (dmask, dsinks))
    return (*(_empty_like(x, x.shape[3]) for x in (q, k, v)), *rest)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, _, *options = inputs
    ctx.save_for_backward(q, k, v, *output, *options[:TENSORS])
    ctx.options = options[TENSORS:]
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, do: Tensor, *_: Any) -> tuple[Any, ...]:
    return _gradients(attention_backward, ctx, do)


def _gradients(operator: Any, ctx: Any, do: Tensor) -> tuple[Any, ...]:
    q, k, v, o, lse, p, *tensors = ctx.saved_tensors
    wanted = Options(*ctx.needs_input_grad[4:])
    dq, dk, dv, dmask, dsinks = operator(
        laid_out(do), q, k, v, o, lse, p, bool(wanted.mask), *tensors, *ctx.options
    )
    gradients = Options(dmask if wanted.mask else None, sinks=dsinks if wanted.sinks else None)
    nothing = (None,) * (len(gradients) - TENSORS)
    return dq, dk, dv, None, *gradients[:TENSORS], *nothing


def _one_by_one(operator: Any) -> Any:
    """A rule for `torch.vmap`: one call for each entry of the batch that vmap adds."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], Any]:
        found = []
        for i in range(info.batch_size):
            picked = (
                x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)
            )
            found.append(
                operator(*(laid_out(x) if isinstance(x, Tensor) and x.dim() == 4 else x for x in picked))
            )
        together = tuple(map(torch.stack, zip(*found, strict=True)))
        return together, (0,) * len(together)

    return rule


def _no_second_derivative(ctx: Any, *_: Any) -> NoReturn:
    raise UnsupportedError(
        "flashbench's attention has no second derivative",
        hint="flashbench_attention('torch-math') has it",
    )


attention.register_autograd(_backward, setup_context=_remember)
attention_backward.register_autograd(_no_second_derivative)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_library = torch.library.Library("flashbench", "FRAGMENT")  # its end would undo the registration


@torch.library.impl(_library, "attention", "AutocastCPU")
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    cast = autocast(*arguments)
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):  # which turns autocast off
        found: tuple[Tensor, Tensor, Tensor] = attention(*cast)
    return found


attention.register_vmap(_one_by_one(attention))
attention_backward.register_vmap(_one_by_one(attention_backward))


class Differentiable(torch.autograd.Function):
    """The operator with its gradients, for transforms of torch.func: they ignore registered gradients."""

    generate_vmap_rule = True
    setup_context = staticmethod(_remember)

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = attention(*arguments)
        return found

    @staticmethod
    def backward(ctx: Any, do: Tensor, *_: Any) -> tuple[Any, ...]:
        return _gradients(_Backward.apply, ctx, do)


class _Backward(torch.autograd.Function):
    generate_vmap_rule = True
    backward = staticmethod(_no_second_derivative)

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = attention_backward(*arguments)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing."""


def or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """x; for None an empty tensor, as operators return tensors only."""
    return like.new_empty(0) if x is None else x


def _empty_like(x: Tensor, head_dim: int) -> Tensor:
    """An empty tensor in x's memory order, as `engines.forms.Result.like` makes results."""
    batch, heads, rows, _ = x.shape
    if 0 < x.stride(1) < x.stride(2):
        return x.new_empty(batch, rows, heads, head_dim).transpose(1, 2)
    return x.new_empty(batch, heads, rows, head_dim)
