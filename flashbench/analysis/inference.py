"""Conclusions from tests of inference: rates, and the longest context that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flashbench.measure.statistics import median_interval, process_medians
from flashbench.results.record import InferenceTest


class Rate(NamedTuple):
    """Tokens a second: the median, and an interval of the median over processes."""

    median: float
    low: float
    high: float
    confidence: float


def tokens_per_second(test: InferenceTest) -> Rate | None:
    """Of all sequences together; None without times."""
    if test.time is None:
        return None
    tokens = 1e9 * test.batch * test.tokens
    interval = median_interval(process_medians(test.time.samples_ns))
    return Rate(
        tokens / test.time.median_ns, tokens / interval.high, tokens / interval.low, interval.confidence
    )


def longest_context(prefills: Sequence[InferenceTest], budget_bytes: int) -> int | None:
    """The most tokens of context that a prefill in parts of `tokens` tokens may reach within the budget.

    prefills: of one model and attention, with one number of tokens, at two depths or more. The peak of such a
    part grows linearly with what is in the cache before; the cache does too. None: too few of them.
    """
    known = sorted(
        (test.depth, test.peak_bytes, test.cache_bytes or 0, test.weight_bytes or 0)
        for test in prefills
        if test.peak_bytes is not None
    )
    if len({depth for depth, *_ in known}) < 2:
        return None
    depths, peaks, caches, weights = np.array(known, dtype=float).T
    slope, start = np.polyfit(depths, peaks + caches, 1)
    room = budget_bytes - weights.max() - max(0.0, start)
    return max(0, int(room / slope)) if slope > 0 else None
