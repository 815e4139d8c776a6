"""From samples to statements: medians, bootstrap intervals, exact tests. SciPy computes them.

One observation is the median of one process. Calls within a process share its memory layout, its cores and
its clock, so they are correlated: an interval over calls would be far too narrow.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# The bounds of an interval vary a little with the resamples. The seed is fixed, so the same samples always
# give the same bounds.
RESAMPLES = 9_999
BATCH = 1_000  # resamples at a time: all at once would take 100 MB
SEED = 0
OUTER_FENCE = 3.0  # Tukey 1977: beyond 3 interquartile ranges from the quartiles a sample is "far out"


class Spread(NamedTuple):
    """Median, quartiles and minimum of samples, and the number of outliers."""

    median: float
    low: float  # 25th percentile
    high: float  # 75th percentile
    minimum: float
    outliers: int  # beyond Tukey's outer fences: counted, not dropped


class Interval(NamedTuple):
    """A ratio and its confidence interval."""

    ratio: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """The spread of all samples; percentiles are interpolated.

    >>> spread([1, 2, 3, 10])
    Spread(median=2.5, low=1.75, high=4.75, minimum=1.0, outliers=0)
    """
    low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
    reach = OUTER_FENCE * (high - low)
    far_out = sum(not low - reach <= sample <= high + reach for sample in samples)
    return Spread(median, low, high, float(min(samples)), far_out)


def process_medians(samples: Sequence[Sequence[float]]) -> list[float]:
    """The median of each process that has samples."""
    return [statistics.median(process) for process in samples if process]


class MedianInterval(NamedTuple):
    """An interval that holds the true median with at least this confidence."""

    low: float
    high: float
    confidence: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> MedianInterval:
    """The interval between two order statistics, which needs no assumption about the distribution.

    Six values or more reach 95 %. Fewer cannot: their whole range holds the median with 1 - 2^(1 - n).

    >>> median_interval([3.0, 1.0, 2.0])
    MedianInterval(low=1.0, high=3.0, confidence=0.75)
    """
    from scipy.stats import quantile_test

    found: Any = quantile_test(values, q=0.0, p=0.5).confidence_interval(confidence)
    if math.isnan(found.low) or math.isnan(found.high):
        return MedianInterval(min(values), max(values), 1.0 - 2.0 ** (1 - len(values)))
    return MedianInterval(float(found.low), float(found.high), confidence)


def paired_ratio(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """exp of the pseudo-median of paired log ratios, with a percentile bootstrap over the pairs.

    The pseudo-median (Hodges and Lehmann 1963) is the median of the means of all pairs of values. A few wild
    rounds cannot move it, as they cannot move a median, and for ordinary noise it needs two thirds of the
    rounds that a median needs. It belongs to the signed-rank test as the mean belongs to the t-test. With
    seven values the interval is too narrow: it misses the truth in 4 to 6 % of cases instead of 1.7 %. So a
    verdict needs the exact test too.
    """
    from scipy.stats import bootstrap  # here, so that a measurement does not load SciPy

    middle = math.exp(float(pseudo_median(np.asarray(log_ratios))))
    if len(set(log_ratios)) == 1:  # SciPy needs two values or more, and some spread
        return Interval(middle, middle, middle)
    found = bootstrap(
        (np.asarray(log_ratios),),
        pseudo_median,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(middle, math.exp(float(found.low)), math.exp(float(found.high)))


def pseudo_median(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """The median of the means of all pairs, including each value with itself.

    >>> float(pseudo_median(np.array([1.0, 2.0, 30.0])))
    8.75
    """
    values = np.moveaxis(values, axis, -1)
    first, second = np.triu_indices(values.shape[-1])
    return np.asarray(np.median((values[..., first] + values[..., second]) / 2, axis=-1))


def unpaired_ratio(
    base: Sequence[float], new: Sequence[float], confidence: float = CONFIDENCE
) -> Interval | None:
    """Median of `new` over median of `base`, resampled separately; None with fewer than two a side."""
    from scipy.stats import bootstrap

    if min(len(base), len(new)) < 2:
        return None
    ratio = statistics.median(new) / statistics.median(base)
    if len(set(base)) == len(set(new)) == 1:
        return Interval(ratio, ratio, ratio)

    def statistic(over: np.ndarray, under: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.median(over, axis=axis) / np.median(under, axis=axis))

    found = bootstrap(
        (np.asarray(new, float), np.asarray(base, float)),
        statistic,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(ratio, float(found.low), float(found.high))


def against_the_middle(groups: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> list[Interval]:
    """Each group's ratio to the middle group: exp of its pseudo-median less the median of all pseudo-medians.

    groups: logarithms, two groups or more of one value or more. The middle of three groups or more is where
    most of them are: one slow group does not move it. Of two groups the middle is the other one.
    The intervals are percentile bootstraps over the values of each group. The groups are always all: this is
    a statement on these groups, not on others that might have been.

    >>> [round(one.ratio, 2) for one in against_the_middle([[0.0, 0.01], [0.0, 0.01], [0.1, 0.11]])]
    [1.0, 1.0, 1.11]
    """
    values = [np.asarray(group, float) for group in groups]
    found = _from_middle(np.array([[float(pseudo_median(each))] for each in values]))[:, 0]
    rng = np.random.default_rng(SEED)
    drawn = _from_middle(np.array([_resampled(each, rng) for each in values]))
    tail = 50 * (1 - confidence)
    lows, highs = np.percentile(drawn, (tail, 100 - tail), axis=1)
    return [
        Interval(*(math.exp(float(bound)) for bound in bounds))
        for bounds in zip(found, lows, highs, strict=True)
    ]


def _from_middle(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """centres[group, resample] less the middle of its resample."""
    middle = centres[::-1] if len(centres) == 2 else np.median(centres, axis=0)
    return np.asarray(centres - middle)


def _resampled(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Pseudo-medians of RESAMPLES resamples of one group."""
    count = len(values)
    if math.comb(2 * count - 1, count) <= RESAMPLES:  # few differ: of six values 462
        picks, chances = _multisets(count)
        return pseudo_median(values[picks])[rng.choice(len(picks), RESAMPLES, p=chances)]
    parts = []
    for start in range(0, RESAMPLES, BATCH):
        shape = (min(BATCH, RESAMPLES - start), count)
        parts.append(pseudo_median(values[rng.integers(0, count, shape)]))
    return np.concatenate(parts)


@cache
def _multisets(count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The resamples of so many values that differ in more than their order, and how likely each is."""
    picks = list(itertools.combinations_with_replacement(range(count), count))
    orders = [
        math.factorial(count) / math.prod(math.factorial(pick.count(value)) for value in set(pick))
        for pick in picks
    ]
    return np.array(picks), np.array(orders) / count**count


def sign_flip_p(log_ratios: Sequence[float]) -> float:
    """Exact two-sided p-value of "no difference", under which each pair's sign is a coin flip.

    It counts all 2^n sign patterns, on ranks (Wilcoxon 1945, the signed-rank test), so a single wild pair
    weighs no more than its rank. With n pairs p is at least 2 / 2^n. Pairs without a difference are left out.
    Equal differences, which are rare with clocks, make p approximate.
    """
    from scipy.stats import wilcoxon

    unequal = [ratio for ratio in log_ratios if ratio]
    if len(unequal) < 2:
        return 1.0
    ties = len({abs(ratio) for ratio in unequal}) < len(unequal)
    return float(wilcoxon(unequal, method="auto" if ties else "exact").pvalue)


def smallest_sign_flip_p(pairs: int) -> float:
    """The p-value if all pairs point the same way."""
    return min(1.0, 2.0 ** (1 - pairs))


def least_pairs(alpha: float) -> int:
    """The fewest pairs with which the sign-flip test can reject at this level.

    >>> least_pairs(0.05), least_pairs(0.05 / 4)
    (6, 8)
    """
    return max(1, math.ceil(1 - math.log2(alpha)))


def mann_whitney_p(base: Sequence[float], new: Sequence[float]) -> float:
    """Two-sided p-value of "either side is equally likely to be larger"; exact without ties."""
    from scipy.stats import mannwhitneyu

    ties = len({*base, *new}) < len(base) + len(new)
    return float(mannwhitneyu(base, new, method="asymptotic" if ties else "exact").pvalue)


def smallest_mann_whitney_p(base: int, new: int) -> float:
    """The p-value if every value of one side is above every value of the other.

    >>> round(smallest_mann_whitney_p(4, 4), 4)
    0.0286
    """
    return min(1.0, 2 / math.comb(base + new, base))


def low_outliers(values: Sequence[float], alpha: float) -> list[int]:
    """Places of values that are too low to be of one normal distribution with the others, the lowest first.

    Rosner 1983, the generalized extreme Studentized deviate test, one-sided: at most a quarter of the values,
    and one of less than eight. It takes the lowest away one after the other, so that two do not hide each
    other. Fewer than four values have no outlier. The chance to find one among equals is alpha, and up to 1.5
    alpha where several are sought.

    >>> low_outliers([20.0, 20.1, 13.0, 19.9, 20.2], 0.05)
    [2]
    """
    from scipy.special import stdtrit  # here, so that a measurement does not load SciPy

    order = sorted(range(len(values)), key=values.__getitem__)
    found = 0
    for count in range(1, max(1, len(values) // 4) + 1):
        others = [values[place] for place in order[count:]]
        if len(others) < 3:
            break
        distance = statistics.fmean(others) - values[order[count - 1]]
        unit = statistics.stdev(others) * math.sqrt(1 + 1 / len(others))
        if distance > unit * float(stdtrit(len(others) - 1, 1 - alpha / (len(others) + 1))):
            found = count
    return order[:found]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number.

    All findings with an adjusted p-value up to alpha hold together, with a chance of error of at most alpha.
    Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
