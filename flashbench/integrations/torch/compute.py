"""Runs an engine on tensors without copies. Result tensors share the memory that the engine filled."""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.engines import Array, Forward
from flashbench.engines.standard import Kept
from flashbench.integrations.torch.arrays import as_stored, as_tensor
from flashbench.integrations.torch.calls import call_of
from flashbench.integrations.torch.direct import backward_at, forward_at, output_at
from flashbench.integrations.torch.options import Options
from flashbench.integrations.torch.runtime import on_torch_threads
from flashbench.integrations.torch.statistics import counted


def compute_output(q: Tensor, k: Tensor, v: Tensor, given: Options) -> Tensor:
    """o alone, for which no backward will ask.

    q, k, v: (batch, heads, seqlen, head_dim), with contiguous rows (`laid_out`).
    """
    direct = output_at(q, k, v, given)
    if direct is not None:
        return direct
    return as_tensor(_forward(q, k, v, given, keep=False).o, q.dtype)


def compute_forward(
    q: Tensor, k: Tensor, v: Tensor, given: Options, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """o, lse and P. P is None unless `keep` is set and the engine can keep it.

    lse and P are in the accumulator of q's dtype.

    q, k, v: as of `compute_output`.
    """
    direct = forward_at(q, k, v, given)
    if direct is not None:
        o, lse = direct
        return o, lse, None
    keep = keep and given.keeps_p
    forward = _forward(q, k, v, given, keep=keep)
    assert forward.lse is not None  # call_of refuses engines without lse
    p = torch.from_numpy(forward.saved.p).view(p_shape(q, k)) if keep else None
    return as_tensor(forward.o, q.dtype), torch.from_numpy(forward.lse), p


def _forward(q: Tensor, k: Tensor, v: Tensor, given: Options, *, keep: bool) -> Forward:
    call = call_of("fwd", q, k, v, given)
    if call.settings.num_threads == 1:
        forward = call.forward(keep=keep)
    else:
        with on_torch_threads():
            forward = call.forward(keep=keep)
    counted("forward")
    return forward


def compute_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    p: Tensor | None,
    given: Options,
    *,
    mask_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, dmask and dsinks, each in the dtype of its input.

    dmask is None without mask_gradient, dsinks is None without sinks.
    """
    direct = backward_at(do, q, k, v, o, lse, given)
    if direct is not None:
        dq, dk, dv = direct
        return dq, dk, dv, None, None
    saved = None if p is None else Kept(as_stored("p", p).reshape(-1))
    forward = Forward(as_stored("o", o), as_stored("lse", lse), saved)
    call = call_of("bwd", q, k, v, given)
    do_array = as_stored("do", do)
    if call.settings.num_threads == 1:
        found = call.backward(do_array, forward, return_dmask=mask_gradient)
    else:
        with on_torch_threads():
            found = call.backward(do_array, forward, return_dmask=mask_gradient)
    counted("backward")
    dq, dk, dv = (as_tensor(x, q.dtype) for x in found)
    return dq, dk, dv, _gradient_of(given.mask, found.dmask), _gradient_of(given.sinks, found.dsinks)


def _gradient_of(x: Tensor | None, gradient: Array | None) -> Tensor | None:
    """The gradient by a mask or sinks, in their dtype."""
    return None if x is None or gradient is None else torch.from_numpy(gradient).to(x.dtype)


def laid_out(x: Tensor) -> Tensor:
    """The tensor itself if each of its rows is contiguous, else a contiguous copy."""
    return x if x.stride(3) == 1 else x.contiguous()


def p_shape(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    return q.shape[0], q.shape[1], q.shape[2], k.shape[2]
