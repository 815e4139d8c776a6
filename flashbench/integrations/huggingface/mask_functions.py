"""Reads transformers' mask functions of (batch, head, query, key) as a band around the diagonal.

It recognises them by identity, and closures of transformers by their code. Each kind of closure is tried once
on small numbers before it is trusted. All other functions are unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

import torch
from transformers import masking_utils

from flashbench.integrations.huggingface.patterns import in_band

MaskFunction = Callable[..., Any]


class Limits(NamedTuple):
    """A query sees a key if low <= key - query <= high; None: no limit."""

    low: int | None = None
    high: int | None = None


def limits_of(function: MaskFunction) -> Limits | None:
    """The band that the function shows; None if it is not known to be a band."""
    if function is masking_utils.causal_mask_function:
        return Limits(high=0)
    if function is masking_utils.bidirectional_mask_function:
        return Limits()
    code = getattr(function, "__code__", None)
    kinds = _kinds()
    return kinds[code](_enclosed(function)) if code in kinds else None


@functools.cache
def _kinds() -> dict[CodeType, Callable[[dict[str, Any]], Limits | None]]:
    """For each known closure, by its code: a function from its enclosed variables to its limits."""
    read = {
        masking_utils.sliding_window_overlay: _window,
        masking_utils.sliding_window_bidirectional_overlay: _window_around,
    }
    kinds: dict[CodeType, Callable[[dict[str, Any]], Limits | None]]
    kinds = {make(1).__code__: limits for make, limits in read.items() if _is_true(make, limits)}
    kinds[masking_utils.and_masks().__code__] = _all_of
    return kinds


def _is_true(make: Callable[[int], MaskFunction], limits: Callable[..., Limits | None]) -> bool:
    """Whether `limits` agrees with the functions that `make` makes from a window."""
    place = torch.arange(9)
    for window in (1, 2, 4):
        function = make(window)
        found = limits(_enclosed(function))
        if found is None:
            return False
        band = in_band(9, 9, *found, place.device)
        if not torch.equal(function(0, 0, place[:, None], place[None]), band):
            return False
    return True


def _window(enclosed: dict[str, Any]) -> Limits | None:
    window = enclosed.get("sliding_window")
    return Limits(low=1 - window) if isinstance(window, int) else None


def _window_around(enclosed: dict[str, Any]) -> Limits | None:
    window = enclosed.get("sliding_window")
    return Limits(-window, window) if isinstance(window, int) else None


def _all_of(enclosed: dict[str, Any]) -> Limits | None:
    functions = enclosed.get("mask_functions")
    if not isinstance(functions, tuple):
        return None
    all_limits = [limits_of(function) for function in functions]
    lows, highs = [], []
    for limits in all_limits:
        if limits is None:
            return None
        lows += [] if limits.low is None else [limits.low]
        highs += [] if limits.high is None else [limits.high]
    return Limits(max(lows, default=None), min(highs, default=None))


def _enclosed(function: Any) -> dict[str, Any]:
    cells = function.__closure__ or ()
    return {name: cell.cell_contents for name, cell in zip(function.__code__.co_freevars, cells, strict=True)}
