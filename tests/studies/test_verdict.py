"""Verdicts from an interval and a p-value."""

from __future__ import annotations

import pytest
from helpers.fake_results import make_measurement
from hypothesis import given
from hypothesis import strategies as st

from flashbench.analysis.verdict import (
    ALPHA,
    between_engines,
    judge,
    sides_verdict,
    status_verdict,
    verdicts_exit_code,
)
from flashbench.measure.statistics import Interval
from flashbench.results.record import Status, Verdict

FAILURES: tuple[Status, ...] = ("unsupported", "too_large", "out_of_memory", "timeout", "crashed", "wrong")


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
        ("ok", "crashed", ("failed", "now crashed")),
        ("ok", "out_of_memory", ("failed", "now out of memory")),
        ("wrong", "ok", ("failed", "was wrong")),
        ("timeout", "timeout", ("same", "timeout in both")),
        ("timeout", "crashed", ("failed", "timeout, now crashed")),
    ],
)
def test_a_side_that_fails_in_one_file_has_neither_regressed_nor_improved(
    base: Status, new: Status, verdict: tuple[str | None, str | None]
) -> None:
    rows = [make_measurement("flash", 128, status=status) for status in (base, new)]
    assert status_verdict(*rows) == verdict


@pytest.mark.parametrize("status", FAILURES)
def test_a_side_of_a_duel_that_fails_is_never_slower_nor_faster(status: Status) -> None:
    good, bad = make_measurement("flash", 128), make_measurement("flash", 128, status=status)
    word = status.replace("_", " ")
    assert sides_verdict(good, good) == (None, None)
    assert sides_verdict(good, bad) == ("failed", f"B {word}")
    assert sides_verdict(bad, good) == ("failed", f"A {word}")
    assert sides_verdict(bad, bad) == ("failed", f"A {word}, B {word}")


def test_two_engines_are_faster_and_not_improved() -> None:
    verdicts: tuple[Verdict, ...] = ("regressed", "same", "improved", "inconclusive", "failed")
    named = ["a_faster", "same", "b_faster", "inconclusive", "failed"]
    assert [between_engines(verdict) for verdict in verdicts] == named


@pytest.mark.parametrize(
    ("verdicts", "status", "code"),
    [
        (["same", "improved", "b_faster"], "ok", 0),
        (["same", "inconclusive"], "ok", 3),
        (["inconclusive", "failed"], "crashed", 4),
        (["same", "failed"], "ok", 3),  # only the other side failed: a fix for a crash is not a failure
        (["failed", "regressed"], "crashed", 1),
        (["a_faster", "inconclusive"], "ok", 1),
    ],
)
def test_what_is_slower_decides_before_what_failed_and_that_before_what_cannot_be_told(
    verdicts: list[Verdict], status: Status, code: int
) -> None:
    judged = make_measurement("flash", 128, status=status)
    assert verdicts_exit_code((verdict, judged) for verdict in verdicts) == code
