"""From tensors to an engine and back, without a copy: results are tensors of memory that engines filled."""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.engines import Forward
from flashbench.engines.standard import Kept
from flashbench.integrations.torch.calls import array, call_of
from flashbench.integrations.torch.options import Options
from flashbench.integrations.torch.runtime import on_torch_threads
from flashbench.integrations.torch.statistics import counted


def compute_forward(
    q: Tensor, k: Tensor, v: Tensor, given: Options, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """o, lse, and P where it is to be kept and the engine can; elsewhere no numbers.

    q, k, v: (batch, heads, seqlen, head_dim), as `laid_out` has them.
    """
    keep = keep and given.keeps_p
    call = call_of("fwd", q, k, v, given)
    with on_torch_threads():
        forward = call.forward(keep=keep)
    counted("forward")
    assert forward.lse is not None  # engines without are refused before
    p = torch.from_numpy(forward.saved.p).view(p_shape(q, k)) if keep else q.new_empty(0)
    return torch.from_numpy(forward.o), torch.from_numpy(forward.lse), p


def compute_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    p: Tensor,
    given: Options,
    *,
    mask_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv; dmask where it is asked for, dsinks where there are sinks."""
    saved = Kept(array("p", p).reshape(-1)) if p.numel() else None
    forward = Forward(array("o", o), array("lse", lse), saved)
    call = call_of("bwd", q, k, v, given)
    with on_torch_threads():
        found = call.backward(array("do", do), forward, return_dmask=mask_gradient)
    counted("backward")
    dq, dk, dv = map(torch.from_numpy, found)
    dmask, dsinks = (None if x is None else torch.from_numpy(x) for x in (found.dmask, found.dsinks))
    return dq, dk, dv, dmask, dsinks


def laid_out(x: Tensor) -> Tensor:
    """The tensor itself where its rows are contiguous, whatever lies between them; else a copy."""
    return x if x.stride(3) == 1 else x.contiguous()


def p_shape(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    return q.shape[0], q.shape[1], q.shape[2], k.shape[2]
