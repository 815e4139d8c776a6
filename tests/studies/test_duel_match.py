"""Looks, verdicts and records of a match, from made-up samples."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence

import msgspec
import pytest

from flashbench.engines import Settings
from flashbench.errors import ConfigError
from flashbench.measure.cpu import NO_USE
from flashbench.measure.statistics import sign_flip_p
from flashbench.measure.timing import Burst
from flashbench.problem import AttentionProblem
from flashbench.results.record import Side, Status
from flashbench.studies.duel.match import Match
from flashbench.studies.duel.settings import Contestant, DuelStudy, least_rounds
from flashbench.studies.study import Point, Study

DUEL = DuelStudy(a=Contestant(engine="flash"), b=Contestant(engine="standard"), study=Study(seq_lens=[64]))
# The machine changes its speed from round to round, so only ratios within a round are useful.
DRIFT = [1.0, 1.3, 0.8, 1.1, 2.0, 0.9, 1.2]


def made(ratios: Sequence[float], duel: DuelStudy = DUEL) -> Match:
    """A match whose rounds have these ratios. Each process has three calls, one of them an outlier."""
    match = Match(Point(AttentionProblem.of(64), "flash", "fwd", Settings(num_threads=2)), duel, "0")
    for place, ratio in enumerate(ratios):
        base = 1e6 * DRIFT[place % len(DRIFT)]
        pair: tuple[tuple[Side, float], ...] = (("a", base), ("b", base * ratio))
        for side, median in pair:
            match.rows[side].add(Burst([round(median), round(median), round(50 * median)], NO_USE, None))
        match.orders.append("ab")
    return match


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.10, 1.12, 1.09, 1.11, 1.08, 1.13, 1.10], "a_faster"),
        ([0.90, 0.91, 0.89, 0.92, 0.90, 0.88, 0.93], "b_faster"),
        ([1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01], "same"),
        ([1.10, 1.12, 1.01, 1.11, 1.00, 1.13, 1.02], "inconclusive"),
    ],
)
def test_a_look_judges_ratios_within_rounds(ratios: list[float], verdict: str) -> None:
    match = made(ratios)
    match.look(match.p_value)
    found = match.record(0, match.p_value)
    assert found.verdict == verdict
    assert match.is_open == (verdict == "inconclusive")
    logs = [math.log(ratio) for ratio in ratios]
    means = [(first + second) / 2 for first, second in itertools.combinations_with_replacement(logs, 2)]
    assert found.ratio == pytest.approx(math.exp(statistics.median(means)), rel=1e-5)
    assert found.low is not None
    assert found.high is not None
    assert min(ratios) <= found.low * (1 + 1e-5) < found.ratio < found.high <= max(ratios) * (1 + 1e-5)
    assert found.confidence == pytest.approx(1 - 0.05 / 3)
    assert found.p_value == pytest.approx(sign_flip_p(logs), rel=1e-3)


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, "regressed"), (0.9, "improved")])
def test_two_versions_of_one_engine_have_regressed_or_improved(ratio: float, verdict: str) -> None:
    versions = msgspec.structs.replace(DUEL, b=Contestant(engine="flash", python="new/bin/python"))
    match = made([ratio] * 7, versions)
    match.look(match.p_value)
    assert match.record(0, match.p_value).verdict == verdict


def test_a_p_value_adjusted_for_many_can_keep_a_verdict_back() -> None:
    match = made([1.10, 1.12, 1.09, 1.11, 1.08, 1.13, 1.10])
    match.look(p_holm=0.05)  # above the 5 % / 3 of one look
    assert match.record(0, 0.05).verdict == "inconclusive"


def test_an_inconclusive_record_says_between_what_it_hangs() -> None:
    match = made([1.0, 1.1] * 4)
    match.look(match.p_value)
    reason = match.record(0, 0.05).reason
    assert reason is not None
    assert re.fullmatch(r"8 rounds leave 1\.0\d\d to 1\.\d\d\d, which crosses the threshold", reason)


def test_a_side_that_crashes_is_never_regressed() -> None:
    match = made([1.0] * 7)
    match.rows["b"].status, match.rows["b"].reason = "crashed", "killed by SIGSEGV"
    assert not match.is_open
    found = match.record(4, 1.0)
    assert (found.verdict, found.reason, found.a, found.b) == ("failed", "B crashed", 4, 5)
    assert found.ratio is found.low is found.p_value is None


def test_a_match_goes_on_from_its_record() -> None:
    match = made([1.0, 1.1] * 4)
    match.look(match.p_value)
    record = match.record(0, match.p_value)
    sides = [match.rows[side].measurement(None) for side in ("a", "b")]
    again = made([])
    assert again.is_of(sides[0])
    again.restore(record, sides)
    assert again.is_open
    assert again.record(0, again.p_value) == record
    assert [again.rows[side].measurement(None).time for side in ("a", "b")] == [row.time for row in sides]


@pytest.mark.parametrize("status", ["crashed", "timeout", "out_of_memory", "too_large"])
def test_a_match_that_failed_by_chance_begins_again(status: Status) -> None:
    match = made([1.0] * 7)
    match.rows["b"].status = status
    sides = [match.rows[side].measurement(None) for side in ("a", "b")]
    again = made([])
    again.restore(match.record(0, 1.0), sides)
    assert (again.is_open, again.orders, again.rows["a"].samples) == (True, [], [])


def test_half_a_round_is_dropped() -> None:
    match = made([1.0] * 3)
    match.rows["a"].add(Burst([1000], NO_USE, None))
    match.drop_unfinished_round()
    assert [len(row.samples) for row in match.rows.values()] == [3, 3]
    assert match.p_value == 1.0


def test_enough_rounds_are_asked_for_to_decide_at_all() -> None:
    assert [least_rounds(problems, 3) for problems in (1, 2, 10)] == [7, 8, 11]
    assert least_rounds(1, 1) == 7  # six could reject at 5 %, but not hold an interval at it
    with pytest.raises(ConfigError, match=r"rounds must be at least 8 for 2 problems and 3 looks, not 7"):
        DuelStudy(a=DUEL.a, b=DUEL.b, study=Study(seq_lens=[64, 128]), rounds=7)


@pytest.mark.parametrize("threshold", [0.0, -0.1, math.inf, math.nan])
def test_a_threshold_must_be_a_positive_number(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold must be above 0"):
        DuelStudy(a=DUEL.a, b=DUEL.b, study=DUEL.study, threshold=threshold)
