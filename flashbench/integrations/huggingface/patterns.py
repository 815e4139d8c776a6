"""What a mask hides, in words of the kernels: keys that nobody sees, a band about the diagonal, single keys.

A mask of (queries, keys) that is causal, or a window, or hides padding, is recognised as such, so that the
kernels skip what it hides and nothing of its size is read again. Recognition is exact: a pattern is guessed
from the mask's extremes, and each query has to see as many keys as the pattern says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashbench.integrations.torch.calls import array
from flashbench.kernels.mask_extents import row_extents
from flashbench.problem import Window

# Masks of added numbers hide by the lowest number of a dtype, or by two of them added up. Half of float32's
# lowest, and what is below, weighs nothing beside any score that a model has.
HIDES = torch.finfo(torch.float32).min / 2


class Pattern(NamedTuple):
    """Which keys a query sees; positions as `flashbench.attention` aligns them at the bottom right."""

    keys: int  # the first so many are seen by anyone
    causal: bool = False
    window: Window = (None, None)
    # What else hides, bool or added, broadcastable to (batch, heads, queries, keys).
    mask: Tensor | None = None


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
    """The pattern of a mask of four dimensions, bool (True may attend) or added to the scores.

    Every number is looked at, at every call: nothing tells that a mask is what it was. That takes as long
    as reading it once.
    """
    found = _look(mask)
    pattern = None if found.adds else _recognise_seen(found, queries)
    if pattern is not None:
        return pattern
    keys = mask.shape[3]
    if mask.dtype is torch.bool or (found.adds and not found.hides_by_numbers):
        return Pattern(keys, mask=mask)
    return Pattern(keys, mask=hidden_by_infinity(mask) if found.adds else ~(mask <= HIDES))


def hidden_by_infinity(mask: Tensor) -> Tensor:
    """An additive mask with -inf for the numbers that hide, whichever they are. Differentiable."""
    return mask.masked_fill(mask <= HIDES, float("-inf"))


class _Seen(NamedTuple):
    """What a mask lets through, for (batch, heads) of which each is another one."""

    firsts: NDArray[Any]  # (batch, heads, rows) of keys; the number of keys where a row sees none
    lasts: NDArray[Any]  # -1 where a row sees none
    counts: NDArray[Any]
    keys: NDArray[Any]  # (batch, heads, keys), True for those that any row sees
    adds: bool  # other numbers than 0
    hides_by_numbers: bool  # by others than -inf


def _look(mask: Tensor) -> _Seen:
    for axis in range(3):
        if mask.stride(axis) == 0:  # broadcast: one is all of them
            mask = mask.narrow(axis, 0, 1)
    entries = array("attention_mask", mask if mask.stride(3) == 1 else mask.contiguous())
    hides, lowest = HIDES, -np.inf
    if entries.dtype == bool:
        entries, hides, lowest = entries.view(np.uint8), 0, 0
    batch, heads, rows, keys = entries.shape
    seen = np.empty((3, batch * heads * rows), np.int32)
    keys_seen = np.zeros((batch * heads, keys), np.uint8)
    strides = [stride // entries.itemsize for stride in entries.strides[:3]]
    number = entries.dtype.type
    adds, by_numbers = row_extents(
        number(hides), number(lowest), (entries.ctypes.data, *entries.shape, *strides), seen, keys_seen
    )
    firsts, lasts, counts = seen.reshape(3, batch, heads, rows)
    of_keys = keys_seen.view(bool).reshape(batch, heads, keys)
    bools = mask.dtype is torch.bool
    return _Seen(firsts, lasts, counts, of_keys, adds and not bools, by_numbers)


def _recognise_seen(found: _Seen, queries: int) -> Pattern | None:
    rows, keys = found.counts.shape[2], found.keys.shape[2]
    if rows == 1:  # the same for all queries, or there is but one
        return _of_keys(found.keys)
    some = found.counts > 0
    if rows != queries or not some.any():
        return None
    place = np.arange(rows)
    low, high = int((found.firsts - place)[some].min()), int((found.lasts - place)[some].max())
    pattern = band_pattern(rows, keys, low, high)
    if pattern is None:
        return None
    # What is seen lies within the band and among the keys that anyone sees, so counting tells whether that
    # is all of them.
    start, end = np.clip(place + low, 0, keys), np.clip(place + high + 1, 0, keys)
    if (found.counts == end - start).all():
        return pattern
    before = np.zeros((*found.keys.shape[:2], keys + 1), np.int64)
    np.cumsum(found.keys, axis=2, out=before[..., 1:])
    if not (found.counts == before[..., end] - before[..., start]).all():
        return None
    return pattern._replace(mask=_mask_of_keys(found.keys[..., : pattern.keys]))


def _of_keys(seen: NDArray[Any]) -> Pattern:
    places = np.flatnonzero(np.any(seen, axis=(0, 1)))
    end = int(places[-1]) + 1 if len(places) else seen.shape[2]
    seen = seen[..., :end]
    return Pattern(end) if seen.all() else Pattern(end, mask=_mask_of_keys(seen))


def _mask_of_keys(seen: NDArray[Any]) -> Tensor:
    """(batch, heads, 1, keys); one batch or head of those that are the same."""
    for axis in (0, 1):
        first = seen.take([0], axis)
        if (seen == first).all():
            seen = first
    return torch.from_numpy(np.ascontiguousarray(seen)[:, :, None])
