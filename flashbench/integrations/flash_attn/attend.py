"""One call of attention on (batch, heads, seqlen, head_dim) tensors, with flash-attention's lse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashbench.integrations.torch import eager, ops
from flashbench.integrations.torch.compute import laid_out
from flashbench.integrations.torch.options import Options


def attend(q: Tensor, k: Tensor, v: Tensor, options: Options, *, lse: bool) -> tuple[Tensor, Tensor | None]:
    """o, differentiable, and lse if asked for: (batch, heads, seqlen), natural log, no gradient.

    lse of a row that sees no key is +inf, as in flash-attention; flashbench's is -inf, the logarithm of 0.
    """
    q, k, v = laid_out(q), laid_out(k), laid_out(v)
    if not lse:
        return eager.attention(q, k, v, options), None
    o, found, _ = ops.attention(q, k, v, torch.is_grad_enabled(), *options)
    return o, found.masked_fill(found == -math.inf, math.inf)
