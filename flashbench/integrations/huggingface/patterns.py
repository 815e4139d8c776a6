"""Recognises causal masks, windows and padding in mask arrays.

For a recognised (queries, keys) mask, kernels skip what it hides and do not read the mask again. Recognition
is exact: the mask's extremes suggest a pattern, and every query must then see exactly as many keys as the
pattern shows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashbench.dtypes import DTYPES, Dtype, accumulator_of
from flashbench.integrations.torch.arrays import as_stored
from flashbench.kernels.mask_extents import row_extents
from flashbench.problem import Window

# The name of each dtype of an added mask, and NumPy's type of its numbers as kernels read them.
_DTYPES: dict[torch.dtype, tuple[Dtype, Any]] = {
    getattr(torch, name): (name, np.dtype(accumulator_of(name).storage).type) for name in DTYPES
}


def hides(dtype: torch.dtype) -> float:
    """The number that hides a key if an added mask of this dtype has it, or a lower one.

    Models hide by the lowest number of their dtype, or by the sum of two of them. Half of it leaves a key no
    weight, for all scores that a model has. float64's masks may be float32's, widened.
    """
    lowest: float = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return lowest / 2


class Pattern(NamedTuple):
    """The keys that queries see. Positions align at the bottom right, as in `flashbench.attention`."""

    keys: int  # no query sees a key from this index on
    causal: bool = False
    window: Window = (None, None)
    # The mask for what is left, bool or added, broadcastable to (batch, heads, queries, keys).
    mask: Tensor | None = None


def band_pattern(queries: int, keys: int, low: int | None, high: int | None) -> Pattern | None:
    """The pattern with which query i sees key j if low <= j - i <= high; None if there is none."""
    if high is not None and high + queries <= 0:
        return None  # no query sees any key
    if high is not None and high >= keys - 1:
        high = None
    if low is not None and low <= 1 - queries:
        low = None
    if high is not None:
        keys = min(keys, high + queries)  # no query sees later keys
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
    """(queries, keys): True if low <= j - i <= high, for query i and key j; None if there are no limits."""
    place = torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None]
    inside = None if low is None else place >= low
    if high is not None:
        below = place <= high
        inside = below if inside is None else inside & below
    return inside


def recognise(mask: Tensor, queries: int) -> Pattern:
    """The pattern of a 4-D mask, bool (True = may attend) or added to the scores.

    Every call reads every number, because nothing shows that a mask has not changed. It takes as long as
    reading the mask once.
    """
    found = _read(mask)
    pattern = None if found.adds else _recognise_visible(found, queries)
    if pattern is not None:
        return pattern
    keys = mask.shape[3]
    if mask.dtype is torch.bool or (found.adds and not found.hides_by_numbers):
        return Pattern(keys, mask=mask)
    return Pattern(keys, mask=hidden_by_infinity(mask) if found.adds else ~(mask <= hides(mask.dtype)))


def hidden_by_infinity(mask: Tensor) -> Tensor:
    """An added mask with -inf in place of every number that hides. Differentiable."""
    return mask.masked_fill(mask <= hides(mask.dtype), float("-inf"))


class _Visible(NamedTuple):
    """The keys that a mask leaves visible. batch, heads and rows are 1 if the mask is broadcast there."""

    firsts: NDArray[Any]  # (batch, heads, rows): first visible key; the number of keys if a row sees none
    lasts: NDArray[Any]  # (batch, heads, rows): last visible key; -1 if a row sees none
    counts: NDArray[Any]  # (batch, heads, rows): number of visible keys
    keys: NDArray[Any]  # (batch, heads, keys): True for keys that any row sees
    adds: bool  # it adds other numbers than 0 to visible keys
    hides_by_numbers: bool  # it hides keys by other numbers than -inf


def _read(mask: Tensor) -> _Visible:
    for axis in range(3):
        if mask.stride(axis) == 0:  # broadcast: one entry stands for all
            mask = mask.narrow(axis, 0, 1)
    entries = as_stored("attention_mask", mask if mask.stride(3) == 1 else mask.contiguous())
    if mask.dtype is torch.bool:
        dtype, number, limit, lowest = None, np.uint8, 0.0, 0.0
    else:
        dtype, number = _DTYPES[mask.dtype]
        limit, lowest = hides(mask.dtype), -np.inf
    batch, heads, rows, keys = entries.shape
    extents = np.empty((3, batch * heads * rows), np.int32)
    visible_keys = np.zeros((batch * heads, keys), np.uint8)
    strides = [stride // entries.itemsize for stride in entries.strides[:3]]
    place = entries.ctypes.data, *entries.shape, *strides
    adds, by_numbers = row_extents(dtype)(number(limit), number(lowest), place, extents, visible_keys)
    firsts, lasts, counts = extents.reshape(3, batch, heads, rows)
    of_keys = visible_keys.view(bool).reshape(batch, heads, keys)
    bools = mask.dtype is torch.bool
    return _Visible(firsts, lasts, counts, of_keys, adds and not bools, by_numbers)


def _recognise_visible(found: _Visible, queries: int) -> Pattern | None:
    rows, keys = found.counts.shape[2], found.keys.shape[2]
    if rows == 1:  # all queries see the same keys, or there is only one query
        return _of_keys(found.keys)
    sees_keys = found.counts > 0
    if rows != queries or not sees_keys.any():
        return None
    place = np.arange(rows)
    low, high = int((found.firsts - place)[sees_keys].min()), int((found.lasts - place)[sees_keys].max())
    pattern = band_pattern(rows, keys, low, high)
    if pattern is None:
        return None
    # Each row's visible keys lie within the band, and among the keys that any row sees. So equal counts mean
    # equal sets.
    start, end = np.clip(place + low, 0, keys), np.clip(place + high + 1, 0, keys)
    if (found.counts == end - start).all():
        return pattern
    before = np.zeros((*found.keys.shape[:2], keys + 1), np.int64)
    np.cumsum(found.keys, axis=2, out=before[..., 1:])
    if not (found.counts == before[..., end] - before[..., start]).all():
        return None
    return pattern._replace(mask=_mask_of_keys(found.keys[..., : pattern.keys]))


def _of_keys(visible: NDArray[Any]) -> Pattern:
    """The pattern of a mask that is the same for all queries. visible: (batch, heads, keys)."""
    places = np.flatnonzero(np.any(visible, axis=(0, 1)))
    end = int(places[-1]) + 1 if len(places) else visible.shape[2]
    visible = visible[..., :end]
    return Pattern(end) if visible.all() else Pattern(end, mask=_mask_of_keys(visible))


def _mask_of_keys(visible: NDArray[Any]) -> Tensor:
    """(batch, heads, 1, keys), with 1 for batch or heads if all of them are the same."""
    for axis in (0, 1):
        first = visible.take([0], axis)
        if (visible == first).all():
            visible = first
    return torch.from_numpy(np.ascontiguousarray(visible)[:, :, None])
