"""The next round goes to the point whose times are most uncertain for their cost, until time is used up."""

from __future__ import annotations

import pytest

from flashbench.engines import Settings
from flashbench.problem import AttentionProblem
from flashbench.studies import budget as module
from flashbench.studies.budget import Budget, uncertainty
from flashbench.studies.rows import Row
from flashbench.studies.study import Point


def row(seqlen: int, samples: list[list[int]], engine: str = "flash") -> Row:
    made = Row(Point(AttentionProblem.of(seqlen), engine, "fwd", Settings()), f"{engine} {seqlen}")
    made.samples = samples
    return made


SURE = [[1000, 1000, 1001, 1000]]
UNSURE = [[1000, 1100, 900, 1200]]
HALF_SURE = [[1000, 1020, 990, 1010]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_more_processes_make_a_time_surer() -> None:
    one, four = row(64, UNSURE), row(64, UNSURE * 4)
    assert uncertainty(four) == pytest.approx(uncertainty(one) / 2)


def test_the_least_sure_per_second_go_first_and_the_rest_as_far_as_it_fits(clock: list[float]) -> None:
    rows = [row(64, HALF_SURE), row(128, UNSURE), row(256, SURE)]
    chosen = Budget(10).worth_another_round(rows, lambda each: 6.0)
    assert chosen == [rows[1]]
    assert Budget(20).worth_another_round(rows, lambda each: 6.0) == rows[:2]


def test_engines_of_a_problem_stay_together(clock: list[float]) -> None:
    rows = [row(64, SURE), row(64, UNSURE, "numpy"), row(128, HALF_SURE)]
    assert Budget(5).worth_another_round(rows, lambda each: 2.0) == rows[:2]


def test_the_start_of_processes_counts_and_time_runs_out(clock: list[float]) -> None:
    budget = Budget(10)
    budget.start_s = 5
    rows = [row(64, UNSURE)]
    assert budget.worth_another_round(rows, lambda each: 4.0) == rows
    assert budget.worth_another_round(rows, lambda each: 6.0) == []
    clock[0] += 9
    assert budget.left_s == pytest.approx(1)
    assert budget.worth_another_round(rows, lambda each: 0.5) == []


def test_times_that_are_sure_enough_are_left_alone(clock: list[float]) -> None:
    assert Budget(60).worth_another_round([row(64, [[1000] * 8])], lambda each: 0.1) == []
