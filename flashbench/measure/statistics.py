"""One number for many samples, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float  # 25th percentile
    high: float  # 75th percentile


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles of all samples, interpolated.

    >>> spread([1, 2, 3, 10])
    Spread(median=2.5, low=1.75, high=4.75)
    """
    low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
    return Spread(median, low, high)
