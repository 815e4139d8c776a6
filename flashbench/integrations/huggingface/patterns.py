"""What a mask hides, in words of the kernels: keys that nobody sees, a band about the diagonal, single keys.

A mask of (queries, keys) that is causal, or a window, or hides padding, is recognised as such, so that the
kernels skip what it hides and nothing of its size is read again. Recognition is exact: a pattern is guessed
from the mask's extremes, and every entry of the mask is then compared with it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flashbench.problem import Window

# Masks of added numbers hide by the lowest number of a dtype, or by two of them added up. Half of float32's
# lowest, and what is below, weighs nothing beside any score that a model has.
HIDES = torch.finfo(torch.float32).min / 2


class Pattern(NamedTuple):
    """Which keys a query sees; positions as `flashbench.attention` aligns them at the bottom right."""

    keys: int  # the first so many are seen by anyone
    causal: bool = False
    window: Window = (None, None)
    # What else hides, bool or added, broadcastable to (batch, heads, queries, keys). Not the mask that was
    # looked at, nor a view of it: remembered on that mask, it would keep it alive. `as_given` stands for it.
    mask: Tensor | None = None
    as_given: bool = False


def band_pattern(queries: int, keys: int, low: int | None, high: int | None) -> Pattern | None:
    """The pattern by which query i sees key j if low <= j - i <= high; None where no pattern says that."""
    if high is not None and high + queries <= 0:
        return None  # nothing is seen at all
    if high is not None and high >= keys - 1:
        high = None
    if low is not None and low <= 1 - queries:
        low = None
    if high is not None:
        keys = min(keys, high + queries)  # nobody sees those behind
    diagonal = keys - queries
    left = None if low is None else diagonal - low
    if left is not None and left < 0:
        return None
    if high is None:
        return Pattern(keys, window=(left, None))
    if high == diagonal:
        return Pattern(keys, causal=queries > 1, window=(left, None))
    return Pattern(keys, window=(left, high - diagonal))


def in_band(
    queries: int, keys: int, low: int | None, high: int | None, device: torch.device
) -> Tensor | None:
    """(queries, keys), True where low <= j - i <= high; None where there are no limits."""
    place = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None]
    inside = None if low is None else place >= low
    if high is not None:
        below = place <= high
        inside = below if inside is None else inside & below
    return inside


def recognise(mask: Tensor, queries: int) -> Pattern:
    """The pattern of a mask of four dimensions, bool (True may attend) or added to the scores."""
    if mask.dtype is torch.bool:
        return _recognise_bool(mask, queries) or Pattern(mask.shape[3], as_given=True)
    visible = ~(mask <= HIDES)  # a NaN is no hiding
    if not bool(torch.where(visible, mask, 0).any()):
        return _recognise_bool(visible, queries) or Pattern(mask.shape[3], mask=visible)
    if bool(visible.all()):
        return Pattern(mask.shape[3], as_given=True)
    return Pattern(mask.shape[3], mask=hidden_by_infinity(mask))


def hidden_by_infinity(mask: Tensor) -> Tensor:
    """An additive mask with -inf for the numbers that hide, whichever they are. Differentiable."""
    return mask.masked_fill(mask <= HIDES, float("-inf"))


def _recognise_bool(visible: Tensor, queries: int) -> Pattern | None:
    visible = _distinct(visible)
    rows, keys = visible.shape[2:]
    if rows == 1:  # the same for all queries, or there is but one
        return _of_keys(visible, keys)
    if rows != queries:
        return None
    limits = _limits(visible)
    if limits is None:
        return None
    low, high = limits
    pattern = band_pattern(rows, keys, low, high)
    if pattern is None:
        return None
    band = in_band(rows, keys, low, high, visible.device)
    if band is None or bool((visible == band).all()):
        return pattern
    seen = visible.any(2, keepdim=True)
    if not bool((visible == (band & seen)).all()):
        return None
    return pattern._replace(mask=seen[..., : pattern.keys].clone())


def _of_keys(visible: Tensor, keys: int) -> Pattern:
    places = visible.flatten(0, 2).any(0).nonzero()
    end = int(places[-1]) + 1 if len(places) else keys
    seen = visible[..., :end]
    return Pattern(end) if bool(seen.all()) else Pattern(end, mask=seen.clone())


def _distinct(visible: Tensor) -> Tensor:
    """One batch or head of those that are the same, so that less is compared, and what is kept is smaller."""
    for axis in (0, 1):
        first = visible.narrow(axis, 0, 1)
        if visible.shape[axis] > 1 and (visible.stride(axis) == 0 or bool((visible == first).all())):
            visible = first
    return visible


def _limits(visible: Tensor) -> tuple[int, int] | None:
    """The lowest and the highest j - i of what is visible; None where nothing is."""
    keys = visible.shape[3]
    some = visible.any(3)
    if not bool(some.any()):
        return None
    query = torch.arange(visible.shape[2], device=visible.device)
    numbers = visible.view(torch.uint8)
    first = numbers.argmax(3) - query
    last = keys - 1 - numbers.flip(3).argmax(3) - query
    return int(first[some].min()), int(last[some].max())
