"""Checks callers' numbers and flags. Every error names the argument."""

from __future__ import annotations

import math
import numbers
import operator
from typing import SupportsIndex

import numpy as np

from flashbench.errors import AttentionError


def as_count(name: str, value: SupportsIndex | None, *, least: int = 1) -> int | None:
    """None or a whole number from `least` up. Raises AttentionError."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise AttentionError(f"{name} must be a whole number or None, not {value!r}")
    if count < least:
        raise AttentionError(f"{name} must be at least {least}, not {count}")
    return count


def as_size(name: str, value: int) -> int:
    """A whole number from 1 up. Raises AttentionError."""
    count = as_count(name, value)
    if count is None:
        raise AttentionError(f"{name} must be a whole number, not None")
    return count


def as_flag(name: str, value: bool) -> bool:
    """True or False (also NumPy's), but not 1, 0 or other truthy values. Raises AttentionError."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise AttentionError(f"{name} must be True or False, not {value!r}")


def as_scale(name: str, value: float | None) -> float | None:
    """None or a finite number. Raises AttentionError."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise AttentionError(f"{name} must be a number or None, not {value!r}")
    scale = float(value)
    if not math.isfinite(scale):
        raise AttentionError(f"{name} must be finite, not {scale}")
    return scale
