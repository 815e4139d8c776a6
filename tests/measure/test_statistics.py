"""Intervals and tests against SciPy's distributions, statsmodels, and results calculated by hand."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp, mannwhitneyu
from statsmodels.stats.multitest import multipletests

from flashbench.measure import statistics
from flashbench.measure.statistics import (
    against_the_middle,
    holm,
    low_outliers,
    mann_whitney_p,
    median_interval,
    paired_ratio,
    process_medians,
    pseudo_median,
    sign_flip_p,
    smallest_mann_whitney_p,
    smallest_sign_flip_p,
    spread,
    unpaired_ratio,
)


def test_spread_counts_outliers_and_keeps_them_in_the_median() -> None:
    found = spread([10, 11, 12, 13, 14, 100])
    assert (found.outliers, found.minimum, found.median) == (1, 10.0, 12.5)
    assert spread([5]).outliers == 0


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 12, 30])
def test_an_interval_of_the_median_has_the_binomial_distributions_coverage(count: int) -> None:
    low, high, confidence = median_interval([float(value) for value in reversed(range(count))])
    # The median is above value number i with the chance of at most i heads in `count` throws of a coin.
    coverage = binom.cdf(high, count, 0.5) - binom.cdf(low, count, 0.5)
    if count < 6:
        assert (low, high, confidence) == (0.0, count - 1.0, pytest.approx(coverage))
        return
    assert confidence == 0.95
    assert coverage >= 0.95
    narrower = binom.cdf(high - 1, count, 0.5) - binom.cdf(low + 1, count, 0.5)
    assert narrower < 0.95


def test_a_process_is_one_number_however_many_calls_it_made() -> None:
    assert process_medians([[1, 2, 9], [4], []]) == [2, 4]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9))
def test_a_pseudo_median_is_the_median_of_the_means_of_all_pairs(values: list[float]) -> None:
    means = [(first + second) / 2 for first, second in itertools.combinations_with_replacement(values, 2)]
    assert pseudo_median(np.asarray(values)) == pytest.approx(np.median(means))
    stacked = np.asarray([values, values]).T
    assert pseudo_median(stacked, axis=0) == pytest.approx([np.median(means)] * 2)


@pytest.mark.grid
@pytest.mark.parametrize(("rounds", "misses_in_100"), [(7, 7), (14, 4), (21, 4)])
def test_a_paired_interval_covers_the_truth_nearly_as_often_as_it_says(
    rounds: int, misses_in_100: int
) -> None:
    rng = np.random.default_rng(1)
    trials = 300
    misses = 0
    for _ in range(trials):
        found = paired_ratio(list(rng.standard_t(3, rounds) * 0.02 + 0.05), 1 - 0.05 / 3)
        misses += not found.low <= math.exp(0.05) <= found.high
    assert misses <= trials * misses_in_100 / 100


def test_one_wild_round_does_not_move_a_paired_ratio() -> None:
    assert paired_ratio([0.0] * 6 + [0.9]).ratio == 1.0


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=9, unique=True), st.data())
def test_sign_flip_p_is_the_share_of_sign_patterns_as_far_out(sizes: list[int], data: st.DataObject) -> None:
    signs = data.draw(st.lists(st.sampled_from([1, -1]), min_size=len(sizes), max_size=len(sizes)))
    ranks = [sorted(sizes).index(size) + 1 for size in sizes]
    observed = sum(sign * rank for sign, rank in zip(signs, ranks, strict=True))
    patterns = itertools.product((1, -1), repeat=len(ranks))
    sums = [sum(sign * rank for sign, rank in zip(pattern, ranks, strict=True)) for pattern in patterns]
    above, below = (sum(test(x) for x in sums) / len(sums) for test in (observed.__le__, observed.__ge__))
    logs = [sign * size / 1e6 for sign, size in zip(signs, sizes, strict=True)]
    assert sign_flip_p(logs) == pytest.approx(min(1.0, 2 * min(above, below)))


def test_one_wild_round_does_not_hide_a_difference() -> None:
    assert sign_flip_p([*(0.1 + 0.001 * place for place in range(11)), -5.0]) < 0.05


def test_rounds_without_a_difference_say_nothing() -> None:
    assert sign_flip_p([0.0] * 7) == 1.0
    assert sign_flip_p([0.0, 0.1, 0.2]) == sign_flip_p([0.1, 0.2])


@pytest.mark.parametrize("pairs", [2, 4, 7, 21])
def test_pairs_that_all_point_one_way_give_the_smallest_p(pairs: int) -> None:
    logs = [0.1 + 0.01 * i for i in range(pairs)]
    assert sign_flip_p(logs) == pytest.approx(smallest_sign_flip_p(pairs))


@pytest.mark.parametrize(("base", "new"), [(1, 1), (3, 3), (4, 4), (5, 7)])
def test_sides_that_do_not_overlap_give_the_smallest_mann_whitney_p(base: int, new: int) -> None:
    low, high = [float(i) for i in range(base)], [100.0 + i for i in range(new)]
    assert mann_whitney_p(low, high) == pytest.approx(smallest_mann_whitney_p(base, new))


def test_four_processes_a_side_cannot_reach_what_the_issue_says() -> None:
    assert smallest_mann_whitney_p(4, 4) == pytest.approx(0.02857, abs=1e-5)


def test_ties_use_the_asymptotic_test() -> None:
    base, new = [1.0, 2.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]
    assert mann_whitney_p(base, new) == mannwhitneyu(base, new, method="asymptotic").pvalue


def test_an_unpaired_ratio_is_of_the_medians_and_widens_with_their_spread() -> None:
    base, new = [10.0, 11.0, 12.0, 10.5, 11.5], [20.0, 22.0, 24.0, 21.0, 23.0]
    found = unpaired_ratio(base, new)
    assert found is not None
    assert found.ratio == 2.0
    assert 20 / 12 <= found.low < 2.0 < found.high <= 24 / 10
    assert unpaired_ratio([1.0], new) is None
    assert unpaired_ratio([2.0, 2.0], [3.0, 3.0]) == (1.5, 1.5, 1.5)


@pytest.fixture(scope="module")
def _settled_heap() -> Iterator[None]:
    """statsmodels collects garbage in each call, which takes a second in a process with many modules."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_settled_heap")
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels_holm(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]) == []


def test_of_two_groups_each_is_compared_with_the_other() -> None:
    first, second = against_the_middle([[0.0, 0.02, 0.01], [0.2, 0.21, 0.19]])
    assert first.ratio == pytest.approx(1 / second.ratio)
    assert second.ratio == pytest.approx(math.exp(0.19))
    assert first.low == pytest.approx(1 / second.high)


@given(st.lists(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=10), min_size=3, max_size=6), st.data())
@settings(max_examples=30)
def test_a_slow_group_moves_no_other_further_than_the_healthy_lie_apart(
    groups: list[list[float]], data: st.DataObject
) -> None:
    slow = data.draw(st.integers(0, len(groups) - 1))
    groups[slow] = [value + 100.0 for value in groups[slow]]
    for place, found in enumerate(against_the_middle(groups)):
        assert found.low <= found.high
        if place != slow:
            assert math.exp(-0.2) - 1e-9 <= found.ratio <= math.exp(0.2) + 1e-9


def test_enumerated_and_drawn_resamples_have_the_same_distribution() -> None:
    """Resamples of few values are enumerated, those of many are drawn."""
    values = np.array([0.0, 0.011, -0.023, 0.052, 0.004, 0.031, -0.012])
    picks, chances = statistics._multisets(len(values))
    assert len(picks) == math.comb(13, 7)
    assert chances.sum() == pytest.approx(1.0)
    enumerated = statistics._resampled(values, np.random.default_rng(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", math.comb(13, 7) - 1)  # too few to enumerate
        drawn = statistics._resampled(values, np.random.default_rng(1))
    assert ks_2samp(enumerated, drawn).pvalue > 0.01


@pytest.mark.parametrize("count", [4, 8, 32])
def test_low_outliers_are_seldom_found_among_equals(count: int) -> None:
    rng = np.random.default_rng(count)
    found = sum(bool(low_outliers(list(rng.normal(size=count)), 0.05)) for _ in range(1000))
    assert found <= 1000 * 0.05 * 1.5 + 3 * math.sqrt(1000 * 0.05)
    assert found >= 1000 * 0.05 / 2


def test_two_low_outliers_do_not_hide_each_other_and_high_ones_are_none() -> None:
    rng = np.random.default_rng(2)
    values = [*rng.normal(scale=0.01, size=6), -0.25, -0.3]
    assert low_outliers(values, 0.05) == [7, 6]
    assert low_outliers([-value for value in values], 0.05) == []
    assert low_outliers([1.0, 1.0, 1.0, 0.9], 0.05) == [3]
    assert low_outliers([1.0] * 4, 0.05) == low_outliers([1.0, 1.1, 0.1], 0.05) == []
