"""Whether one measurement is slower than another, and how sure that is with so few bursts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from flashbench.results.record import Time, Verdict

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A ratio of times and the bounds that hold it with `CONFIDENCE`."""

    ratio: float
    low: float
    high: float


def ratio_interval(base: Time, new: Time) -> Interval | None:
    """New over base, with Welch's interval for the difference of the mean logarithms of burst medians.

    A burst counts once, however many calls it has: the calls of a burst share its clock speed and its
    neighbours, and would pretend to a certainty that the next run belies. Bursts are few, so the bounds
    are Student's and not a bootstrap's, which for three bursts would be far too narrow. The interval
    knows nothing of what changed between the two runs. None when either side has but one burst.
    """
    from scipy.special import stdtrit  # here, so that reading this module's types costs no SciPy

    sides = [_log_medians(time) for time in (base, new)]
    if min(map(len, sides)) < 2:
        return None
    # Variance of each side's mean, of n bursts.
    parts = [statistics.variance(logs) / len(logs) for logs in sides]
    ratio = new.median_ns / base.median_ns
    if sum(parts) == 0:
        return Interval(ratio, ratio, ratio)
    # Welch 1947: the degrees of freedom that match the variance of the sum.
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(logs) - 1) for part, logs in zip(parts, sides, strict=True)
    )
    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(sum(parts))
    return Interval(ratio, ratio * math.exp(-reach), ratio * math.exp(reach))


def judge_interval(interval: Interval, fail_over: float) -> Verdict:
    """Regressed or improved when all of the interval is beyond the limit, same when it ends below it.

    >>> judge_interval(Interval(1.02, 0.99, 1.04), fail_over=0.05)
    'same'
    >>> judge_interval(Interval(1.04, 0.99, 1.08), fail_over=0.05)
    'inconclusive'
    """
    if interval.low > 1 + fail_over:
        return "regressed"
    if interval.high < 1 / (1 + fail_over):
        return "improved"
    return "same" if interval.high <= 1 + fail_over else "inconclusive"


def _log_medians(time: Time) -> Sequence[float]:
    return [math.log(max(1.0, statistics.median(burst))) for burst in time.samples_ns if burst]
