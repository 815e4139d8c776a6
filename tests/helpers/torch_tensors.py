"""Tensors for tests of the integration with PyTorch."""

from __future__ import annotations

from typing import Any

import torch


def normal(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    """Standard normal numbers: the same for the same seed, shape and dtype."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
