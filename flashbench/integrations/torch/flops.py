"""Floating-point operations of our operators, for `torch.utils.flop_counter.FlopCounterMode`.

Only matrix products count, and hidden pairs count too, as for PyTorch's own attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from flashbench.integrations.torch import ops  # noqa: F401  # defines the operators

_Shape = tuple[int, ...]


@register_flop_formula(torch.ops.flashbench.attention)
def forward_flops(q: _Shape, k: _Shape, v: _Shape, *_: Any, **named: Any) -> int:
    """q @ k.T and p @ v."""
    return _product(q, k, q[3]) + _product(q, k, v[3])


@register_flop_formula(torch.ops.flashbench.attention_backward)
def backward_flops(
    do: _Shape, q: _Shape, k: _Shape, v: _Shape, o: _Shape, lse: _Shape, p: _Shape, *_: Any, **named: Any
) -> int:
    """dp = do @ v.T, dv = p.T @ do, dq = ds @ k, dk = ds.T @ q, and q @ k.T again if p was not kept."""
    again = 0 if len(p) == 4 else 1
    return (2 + again) * _product(q, k, q[3]) + 2 * _product(q, k, v[3])


def _product(q: _Shape, k: _Shape, head_dim: int) -> int:
    batch, heads, rows, _ = q
    return 2 * batch * heads * rows * k[2] * head_dim
