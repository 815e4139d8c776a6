"""What an interval and a p-value may say, and when they must not."""

from __future__ import annotations

import pytest
from fake_results import make_measurement
from hypothesis import given
from hypothesis import strategies as st

from flashbench.measure.statistics import Interval
from flashbench.results.record import Status
from flashbench.studies.verdict import ALPHA, judge, status_verdict


@given(
    ratio=st.floats(0.1, 10),
    below=st.floats(0, 0.9),
    above=st.floats(0, 3),
    p_value=st.floats(0, 1),
    threshold=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_verdicts_follow_from_where_the_interval_lies(
    ratio: float, below: float, above: float, p_value: float, threshold: float
) -> None:
    interval = Interval(ratio, ratio * (1 - below), ratio * (1 + above))
    verdict = judge(interval, p_value, threshold)
    assert (verdict == "regressed") == (interval.low > 1 + threshold and p_value <= ALPHA)
    assert (verdict == "improved") == (interval.high < 1 / (1 + threshold) and p_value <= ALPHA)
    if verdict == "same":
        assert 1 / (1 + threshold) <= interval.low <= interval.high <= 1 + threshold


@pytest.mark.parametrize("interval", [Interval(1.2, 1.1, 1.3), Interval(0.8, 0.7, 0.9)])
def test_a_change_that_may_be_chance_is_inconclusive(interval: Interval) -> None:
    assert judge(interval, 0.06, threshold=0.05) == "inconclusive"
    assert judge(interval, 0.04, threshold=0.05) != "inconclusive"
    assert judge(interval, 0.04, threshold=0.05, alpha=0.05 / 3) == "inconclusive"


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        ("ok", "ok", (None, None)),
        ("ok", "crashed", ("regressed", "now crashed")),
        ("wrong", "ok", ("improved", "was wrong")),
        ("timeout", "timeout", ("same", "timeout in both")),
        ("timeout", "crashed", ("inconclusive", "timeout, now crashed")),
    ],
)
def test_a_side_without_a_time_decides_by_its_status(
    base: Status, new: Status, verdict: tuple[str | None, str | None]
) -> None:
    rows = [make_measurement("flash", 128, status=status) for status in (base, new)]
    assert status_verdict(*rows) == verdict
