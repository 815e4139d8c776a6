"""PyTorch's autocast: attention runs in autocast's dtype, as PyTorch's own attention does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast(q: Any, k: Any, v: Any, *others: Any) -> tuple[Any, ...]:
    """The arguments as autocast casts them; as they are if it is off.

    others: a mask, slopes, sinks. In float32 they stay as they are, because kernels read them in float32.
    """
    if not torch.is_autocast_enabled("cpu"):
        return q, k, v, *others
    dtype = torch.get_autocast_dtype("cpu")
    rest = (x.to(dtype) if _is_cast(x) and x.dtype is not torch.float32 else x for x in others)
    return *(x.to(dtype) if _is_cast(x) else x for x in (q, k, v)), *rest


def _is_cast(x: Any) -> bool:
    """Whether PyTorch's autocast for CPUs casts x: any tensor of floats on the CPU but float64."""
    return isinstance(x, Tensor) and x.is_cpu and x.is_floating_point() and x.dtype is not torch.float64
