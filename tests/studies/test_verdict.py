"""How sure a ratio of times is."""

from __future__ import annotations

import math
import random

import pytest
from fake_results import make_time
from hypothesis import given
from hypothesis import strategies as st

from flashbench.results.record import Time
from flashbench.studies.verdict import CONFIDENCE, Interval, judge_interval, ratio_interval


def make_bursts(medians: list[float]) -> Time:
    """One call per burst."""
    ordered = sorted(medians)
    return Time(
        samples_ns=[[round(median)] for median in medians],
        median_ns=ordered[len(ordered) // 2],
        low_ns=ordered[0],
        high_ns=ordered[-1],
    )


def test_one_burst_has_no_interval() -> None:
    assert ratio_interval(make_time(1e6, bursts=1), make_time(1e6)) is None
    assert ratio_interval(make_time(1e6), make_time(1e6, bursts=1)) is None


def test_bursts_that_agree_have_an_interval_of_no_width() -> None:
    interval = ratio_interval(make_time(1e6, spread=0), make_time(2e6, spread=0))
    assert interval == Interval(2.0, 2.0, 2.0)


def test_the_interval_is_welch_s() -> None:
    from scipy.stats import ttest_ind

    base, new = [1.00e6, 1.02e6, 0.99e6], [1.10e6, 1.15e6, 1.07e6]
    interval = ratio_interval(make_bursts(base), make_bursts(new))
    assert interval is not None
    logs = [[math.log(value) for value in side] for side in (new, base)]
    expected = ttest_ind(*logs, equal_var=False).confidence_interval(CONFIDENCE)
    width = math.log(interval.high / interval.low)
    assert width == pytest.approx(expected.high - expected.low, rel=1e-6)
    assert interval.ratio == 1.10e6 / 1.00e6


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random.seed(1)
    held, rounds = 0, 2000
    for _ in range(rounds):
        sides = [[1e9 * math.exp(random.gauss(0, 0.02)) for _ in range(4)] for _ in range(2)]
        interval = ratio_interval(make_bursts(sides[0]), make_bursts(sides[1]))
        assert interval is not None
        held += interval.low <= 1 <= interval.high
    # Centred on the ratio of the medians rather than of the means, it may hold a little less often.
    assert held / rounds > 0.9


@given(ratio=st.floats(0.1, 10), reach=st.floats(0, 3), fail_over=st.sampled_from([0.0, 0.05, 0.5]))
def test_verdicts_follow_from_where_the_interval_lies(ratio: float, reach: float, fail_over: float) -> None:
    interval = Interval(ratio, ratio * math.exp(-reach), ratio * math.exp(reach))
    verdict = judge_interval(interval, fail_over)
    assert (verdict == "regressed") == (interval.low > 1 + fail_over)
    if verdict in ("same", "improved"):
        assert interval.high <= 1 + fail_over
    if verdict == "inconclusive":
        assert interval.low <= 1 + fail_over < interval.high
