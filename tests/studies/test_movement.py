"""Warnings about times that drifted name the likely cause. Steady times give no warning."""

from __future__ import annotations

import msgspec
import pytest
from helpers.fake_results import make_measurement

from flashbench.analysis.movement import movement_warnings
from flashbench.results.record import Disturbance, Measurement


def moved(seqlen: int, **disturbance: float) -> Measurement:
    return msgspec.structs.replace(
        make_measurement("flash", seqlen), disturbance=Disturbance(**{"moved": 0.12, **disturbance})
    )


@pytest.mark.parametrize(
    ("disturbance", "said"),
    [
        ({"others_cores": 0.8}, "other processes used 0.8 cores: end them and measure again"),
        ({"steal_percent": 7.0}, "the hypervisor gave 7 % of the CPU time to others: use ratios of one run"),
        ({"others_cores": 0.02, "steal_percent": 0.1}, "no other process was busy, so it is the clock, "),
        ({}, "no other process was busy"),
        ({"others_cores": 0.02, "throttled_periods": 3}, "its threads had to wait for a CPU quota"),
    ],
)
def test_the_cause_is_named_with_what_to_do(disturbance: dict[str, float], said: str) -> None:
    line, *_ = movement_warnings([moved(512, **disturbance), moved(1024, **disturbance)])
    assert line.startswith("flash fwd at 512, 1024: median moved 12 % between its processes: ")
    assert said in line


def test_steady_times_are_not_warned_about() -> None:
    busy = Disturbance(moved=0.04, others_cores=2.0)
    assert (
        movement_warnings([msgspec.structs.replace(make_measurement("flash", 128), disturbance=busy)]) == []
    )
    assert movement_warnings([make_measurement("flash", 128)]) == []


def test_periods_in_which_a_quota_was_used_up_are_told_of_all_that_was_timed() -> None:
    rows = [moved(512, moved=0.01, throttled_periods=3), moved(1024, moved=0.01, throttled_periods=4)]
    (line,) = movement_warnings(rows)
    assert line.startswith("the CPU quota (cgroup) was used up in 7 periods while timing")
    assert movement_warnings([moved(512, moved=0.01, throttled_periods=0)]) == []
