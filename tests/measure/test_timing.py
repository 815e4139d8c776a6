"""Bursts take the requested number of samples, and turns are fair."""

from __future__ import annotations

import gc

import pytest

from flashbench.measure import timing
from flashbench.measure.timing import burst, turn_order

MS = 1_000_000


class Clock:
    """A clock. Every call advances it by the next of its durations; the last duration repeats for ever."""

    def __init__(self, *durations_ns: int) -> None:
        self.durations_ns = list(durations_ns)
        self.now = 0
        self.calls = 0

    def call(self) -> None:
        assert not gc.isenabled()
        self.now += self.durations_ns[min(self.calls, len(self.durations_ns) - 1)]
        self.calls += 1


def run(monkeypatch: pytest.MonkeyPatch, clock: Clock, repeats: int, **limits: int) -> list[int]:
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: clock.now)
    return burst(clock.call, repeats, **{"at_least_ns": 0, "at_most": 50, **limits}).samples_ns


def test_burst_discards_the_first_call_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Clock(90 * MS, 9, 1, 2), 3) == [9, 1, 2]


def test_burst_repeats_short_calls_until_the_time_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(monkeypatch, Clock(2 * MS), 5, at_least_ns=50 * MS)) == 25


def test_burst_does_not_repeat_very_short_calls_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(monkeypatch, Clock(1), 5, at_least_ns=50 * MS)) == 50


def test_burst_honours_repeats_above_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(run(monkeypatch, Clock(100 * MS), 70, at_least_ns=50 * MS)) == 70


def test_burst_keeps_a_long_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(600 * MS, 601 * MS)
    assert run(monkeypatch, clock, 3) == [600 * MS, 601 * MS, 601 * MS]
    assert clock.calls == 3


def test_burst_makes_a_very_long_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Clock(6_000 * MS), 5) == [6_000 * MS]


def test_burst_turns_the_collector_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError

    for call in (lambda: None, fail):
        try:
            burst(call, 1, at_least_ns=0, at_most=1)
        except ValueError:
            assert call is fail
        assert gc.isenabled()


def test_burst_does_its_errand_before_every_call_and_does_not_time_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(1 * MS)
    errands: list[int] = []

    def errand() -> None:
        errands.append(clock.calls)
        clock.now += 700 * MS

    monkeypatch.setattr(timing, "perf_counter_ns", lambda: clock.now)
    found = burst(clock.call, 3, at_least_ns=0, at_most=3, between=errand)
    assert found.samples_ns == [MS] * 3
    assert errands == [0, 1, 2, 3]
    assert found.joules_per_call is None  # the energy of errands does not belong to the calls


def test_everyone_leads_and_has_a_turn_in_every_round() -> None:
    orders = [turn_order(3, number) for number in range(3)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert sorted(order[0] for order in orders) == [0, 1, 2]
