"""A contest with made-up times: it finds the fastest, and keeps it only if it wins for certain."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.engines.flash.tuned import Check, Key
from flashbench.measure.cpu import NO_USE, CpuUse
from flashbench.measure.timing import Burst
from flashbench.studies.tune.contest import PROCESSES, Duel, fastest, heads_won
from flashbench.studies.tune.plan import search_problem

KEY = Key("float64", 64, False, "fwd", 9)
LONG_KEY = Key("float64", 64, False, "bwd", 13)
TUNED = Blocks(32, 40)  # the built-in rule never chooses it
# (block_q, block_k, seqlen, heads) -> nanoseconds
Formula = Callable[[Blocks, int, int], float]


class FakeTimer:
    """Times by a formula, plus a little or a lot of random noise."""

    def __init__(self, formula: Formula, *, noise: float = 0.0, seed: int = 0, use: CpuUse = NO_USE) -> None:
        self._formula = formula
        self._use = use
        self._noise = noise
        self._chance = random.Random(seed)
        self.slots: dict[str, tuple[Blocks, int, int]] = {}
        self.timed: list[tuple[Blocks, int, int]] = []

    def prepare(self, slot: str, factory: str, arguments: dict[str, Any]) -> dict[str, Any]:
        settings, problem = arguments["settings"], arguments["problem"]
        blocks = Blocks(settings["block_q"], settings["block_k"])
        self.slots[slot] = (blocks, problem["seqlen_k"], problem["num_heads"])
        return {}

    def time(self, slot: str, repeats: int, *, at_least_ns: int = 0, at_most: int = 50) -> Burst:
        self.timed.append(self.slots[slot])
        middle = self._formula(*self.slots[slot])
        samples = [round(middle * math.exp(self._chance.gauss(0, self._noise))) for _ in range(3)]
        return Burst(samples, self._use, None)

    def release(self, slot: str) -> None:
        del self.slots[slot]


def duel(formula: Formula, *, key: Key = KEY, noise: float = 0.0, seed: int = 0) -> list[Check]:
    contest = Duel(key, TUNED, threads=2)
    for number in range(PROCESSES):
        timer = FakeTimer(formula, noise=noise, seed=1000 * seed + number)
        contest.fight(timer, number)
        assert not timer.slots
    return contest.checks()


def gaining(gain: float) -> Formula:
    return lambda blocks, seqlen, heads: 1e6 * (1 - gain if blocks == TUNED else 1.0)


def test_the_fastest_of_many_is_found_and_gives_its_memory_back() -> None:
    sizes = [Blocks(q, k) for q in (8, 16, 24, 32, 48) for k in (32, 64, 128, 256)]
    timer = FakeTimer(lambda blocks, *_: 1e6 + 1e4 * abs(blocks.block_q - 24) + abs(blocks.block_k - 128))
    assert fastest(timer, KEY, search_problem(KEY, 2), sizes, 2) == Blocks(24, 128)
    assert not timer.slots


def test_the_better_are_timed_more_often() -> None:
    sizes = [Blocks(8, 8 * size) for size in range(1, 33)]
    timer = FakeTimer(lambda blocks, *_: 1e6 + blocks.block_k, noise=1e-5)
    best = fastest(timer, KEY, search_problem(KEY, 2), sizes, 2)
    counts = {blocks: sum(blocks == timed for timed, _, _ in timer.timed) for blocks in sizes}
    assert best.block_k <= 24
    assert counts[best] == max(counts.values()) > 8
    assert counts[sizes[-1]] == 1


def test_one_candidate_needs_no_contest() -> None:
    timer = FakeTimer(gaining(0))
    assert fastest(timer, KEY, search_problem(KEY, 2), [TUNED], 2) == TUNED
    assert timer.timed == []


@pytest.mark.parametrize("key", [KEY, LONG_KEY])
def test_what_is_faster_everywhere_wins_from_one_head_on(key: Key) -> None:
    checks = duel(gaining(0.1), key=key)
    assert heads_won(checks) == 1
    assert all(check.ratio == pytest.approx(0.9) for check in checks)
    assert {check.seqlen for check in checks} >= {1 << (key.band - 1), (1 << key.band) - 1}


@pytest.mark.parametrize("gain", [0.0, 0.01, -0.1])
def test_the_built_in_stays_where_little_or_nothing_is_won(gain: float) -> None:
    assert heads_won(duel(gaining(gain))) is None


@pytest.mark.parametrize("loser", [256, 288, 511])
def test_the_built_in_stays_where_it_is_faster_at_one_length(loser: int) -> None:
    def formula(blocks: Blocks, seqlen: int, heads: int) -> float:
        return 1e6 * (1.0 if blocks != TUNED else 1.02 if seqlen == loser else 0.8)

    assert heads_won(duel(formula)) is None if loser != 288 else heads_won(duel(formula)) == 8


def test_what_wins_with_many_heads_only_is_for_many_heads_only() -> None:
    assert heads_won(duel(lambda blocks, _, heads: 1e6 * (0.8 if blocks == TUNED and heads == 8 else 1))) == 8


def test_what_loses_with_many_heads_is_not_for_one_either() -> None:
    def formula(blocks: Blocks, seqlen: int, heads: int) -> float:
        return 1e6 * (0.8 if blocks == TUNED and heads == 1 else 1.0)

    checks = duel(formula)
    assert heads_won(checks) is None
    # After it lost with many heads, one head is not timed: two processes were enough.
    assert {check.heads for check in checks} == {1, 8}


def test_a_lost_duel_is_not_fought_to_the_end() -> None:
    contest = Duel(KEY, TUNED, threads=2)
    for number in range(2):
        assert contest.open_heads() == [8, 1]
        contest.fight(FakeTimer(gaining(-0.1)), number)
    assert contest.open_heads() == []


def test_noise_alone_wins_next_to_nothing() -> None:
    won = [heads_won(duel(gaining(0.0), noise=0.1, seed=seed)) for seed in range(100)]
    assert won.count(None) >= 99


def test_what_is_slower_by_more_than_noise_never_wins() -> None:
    won = [heads_won(duel(gaining(-0.05), noise=0.05, seed=seed)) for seed in range(100)]
    assert won.count(None) == 100


def test_a_gain_is_found_through_noise() -> None:
    won = [heads_won(duel(gaining(0.2), noise=0.05, seed=seed)) for seed in range(20)]
    assert won.count(1) >= 18


def test_a_gain_that_one_process_hides_is_not_decided_yet() -> None:
    contest = Duel(KEY, TUNED, threads=2)
    for number in range(7):
        contest.fight(FakeTimer(gaining(-0.5 if number == 1 else 0.1)), number)
    assert heads_won(contest.checks()) is None
    assert contest.open_heads() == [8, 1]
    assert not contest.is_decided()
    for number in range(7, 15):
        contest.fight(FakeTimer(gaining(0.1)), number)
    assert heads_won(contest.checks()) == 1
    assert contest.is_decided()


def test_what_gains_too_little_is_decided() -> None:
    contest = Duel(KEY, TUNED, threads=2)
    for number in range(3):
        contest.fight(FakeTimer(gaining(0.01)), number)
    assert contest.open_heads() == [8, 1]
    assert contest.is_decided()


def test_sides_lead_in_turns() -> None:
    contest = Duel(LONG_KEY, TUNED, threads=2)  # long calls: one turn a side and process
    leaders = []
    for number in range(4):
        timer = FakeTimer(gaining(0.1))
        contest.fight(timer, number)
        leaders.append(next(blocks == TUNED for blocks, seqlen, _ in timer.timed if seqlen == 8191))
    assert leaders == [False, True, False, True]


def test_the_opponent_is_what_the_rule_chooses_at_each_length() -> None:
    contest = Duel(KEY, TUNED, threads=2)
    timer = FakeTimer(gaining(0.1))
    contest.fight(timer, 0)
    for check in contest.checks():
        problem = search_problem(KEY, 2)
        problem = type(problem).of(check.seqlen, num_heads=check.heads)
        assert check.built_in == built_in_blocks(problem, "fwd")
        assert (Blocks(*check.built_in), check.seqlen, check.heads) in timer.timed


def test_a_disturbed_burst_is_taken_again_but_not_for_ever() -> None:
    # Quiet, disturbed, and too short for the counters to tell.
    counts = []
    for use in (CpuUse(1.0, 0.1, 0.0), CpuUse(1.0, 0.7, 0.0), CpuUse(0.01, 0.01, 0.0)):
        timer = FakeTimer(gaining(0.1), use=use)
        Duel(LONG_KEY, TUNED, threads=2).fight(timer, 0)
        counts.append(len(timer.timed))
    assert counts == [counts[0], 3 * counts[0], counts[0]]
