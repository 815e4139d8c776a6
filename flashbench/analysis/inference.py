"""Conclusions from tests of inference: rates, ratios, Amdahl's bound, and the longest context that fits."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from flashbench.results.record import InferenceTest

BASE = "sdpa"


class Rate(NamedTuple):
    """Tokens a second: of the median, and of the fastest and slowest process's median."""

    median: float
    low: float
    high: float


def tokens_per_second(test: InferenceTest) -> Rate | None:
    """Of all sequences together; None without times."""
    if test.time is None:
        return None
    tokens = 1e9 * test.batch * test.tokens
    processes = [median(process) for process in test.time.samples_ns]
    return Rate(tokens / test.time.median_ns, tokens / max(processes), tokens / min(processes))


def place_of(test: InferenceTest) -> tuple[object, ...]:
    """What the arms of a test have in common."""
    return test.model, test.dtype, test.test, test.tokens, test.depth, test.batch


def base_of(
    test: InferenceTest, tests: Sequence[InferenceTest], attention: str = BASE
) -> InferenceTest | None:
    """The same test with that attention."""
    for other in tests:
        if other.attention == attention and place_of(other) == place_of(test):
            return other
    return None


def measured_ratio(test: InferenceTest, base: InferenceTest | None) -> float | None:
    """How many times faster than the base a test is; None unless both were timed."""
    if base is None or test.time is None or base.time is None:
        return None
    return base.time.median_ns / test.time.median_ns


def amdahl_bound(test: InferenceTest, base: InferenceTest | None) -> float | None:
    """1 / ((1 - f) + f / s): f is attention's share of the base's test, s its speed-up here (Amdahl 1967)."""
    if base is None or base.attention_share is None or not base.attention_ns or not test.attention_ns:
        return None
    faster = base.attention_ns / test.attention_ns
    return 1.0 / ((1.0 - base.attention_share) + base.attention_share / faster)


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
