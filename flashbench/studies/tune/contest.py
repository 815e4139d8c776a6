"""Finds the fastest blocks: candidates against each other in one process, then the winner against the rule.

Within a process the fastest call counts, because a disturbance only makes a call slower. Processes differ in
their memory layout, so across processes the middle counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from flashbench.engines import Settings
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.plan import built_in_blocks
from flashbench.engines.flash.tuned import Check, Key
from flashbench.measure.statistics import paired_ratio
from flashbench.measure.timing import Burst
from flashbench.problem import AttentionProblem
from flashbench.studies import workload
from flashbench.studies.study import Point
from flashbench.studies.tune.plan import head_counts, judged_lengths, problem_of

# Each process gives one ratio. More processes run if the gain looks large but is not yet certain, as on a
# machine with other work.
PROCESSES = 7
MOST_PROCESSES = 15
CONFIDENCE = 0.98
LEAST_GAIN = 0.015
BURST_NS = 4_000_000
# Number of turns of each side in a process; 1 if a call has more operations per thread than the limit.
TURNS = 3
LONG_CALL_FLOPS_PER_THREAD = 400_000_000
MOST_CALLS = 50
MOST_RETAKES = 2
# The counters of other processes' CPU time have steps of 10 ms: too coarse for a shorter burst.
LEAST_SPAN_S = 0.1
DISTURBED_CORES = 0.2
MOST_TURNS = 8  # turns of a candidate in one round of the search


class Timer(Protocol):
    """The part of `measure.worker.Worker` that a contest needs."""

    def prepare(self, slot: str, factory: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Make a workload."""

    def time(self, slot: str, repeats: int, *, at_least_ns: int = 0, at_most: int = 50) -> Burst:
        """Time calls of the workload."""

    def release(self, slot: str) -> None:
        """Forget the workload."""


def fastest(
    timer: Timer, key: Key, problem: AttentionProblem, sizes: Sequence[Blocks], threads: int
) -> Blocks:
    """The fastest of `sizes`, by successive halving (Karnin et al. 2013).

    Every candidate takes a turn, and the slower half leaves; this repeats. Each round has twice as many turns
    as the one before.
    """
    best = dict.fromkeys(sizes, math.inf)
    for blocks in sizes:
        _prepare(timer, str(blocks), problem, key, blocks, threads)
    left = list(sizes)
    turns = 1
    while len(left) > 1:
        for turn in range(turns):
            # Alternate the direction, so that no candidate always follows the same neighbour.
            for blocks in left if turn % 2 == 0 else reversed(left):
                best[blocks] = min(best[blocks], _fastest_call(timer, str(blocks)))
        left.sort(key=lambda blocks: best[blocks])
        left = left[: len(left) // 2]
        turns = min(2 * turns, MOST_TURNS)
    for blocks in sizes:
        timer.release(str(blocks))
    return left[0]


class Duel:
    """The winner of the search against the built-in choice, across the key's band."""

    def __init__(self, key: Key, blocks: Blocks, threads: int) -> None:
        self.key = key
        self.blocks = blocks
        self._threads = threads
        self._log_ratios: dict[tuple[int, int], list[float]] = {
            (heads, seqlen): []
            for heads in head_counts(key, threads)
            for seqlen in judged_lengths(key, blocks.block_q, heads=heads, threads=threads)
        }

    def fight(self, timer: Timer, number: int) -> None:
        """Time each problem once more, in the fresh process `number`. Sides take turns, and turns to lead."""
        for heads in self.open_heads():
            for place in [place for place in self._log_ratios if place[0] == heads]:
                problem = problem_of(self.key, place[1], heads=heads)
                sides = (built_in_blocks(problem, self.key.direction), self.blocks)
                for side, blocks in enumerate(sides):
                    _prepare(timer, str(side), problem, self.key, blocks, self._threads)
                best = [math.inf, math.inf]
                for turn in range(1 if self._is_long(problem) else TURNS):
                    for side in (0, 1) if (number + turn) % 2 == 0 else (1, 0):
                        best[side] = min(best[side], _fastest_call(timer, str(side)))
                for side in (0, 1):
                    timer.release(str(side))
                self._log_ratios[place].append(math.log(best[1] / best[0]))

    def _is_long(self, problem: AttentionProblem) -> bool:
        return problem.flops(self.key.direction) > LONG_CALL_FLOPS_PER_THREAD * self._threads

    def open_heads(self) -> list[int]:
        """The numbers of heads at which it can still win, from many to one.

        If it loses at one number, it cannot be used for fewer: a win counts for that many heads and more.
        """
        found = []
        for heads in sorted({heads for heads, _ in self._log_ratios}, reverse=True):
            ratios = [logs for (number, _), logs in self._log_ratios.items() if number == heads]
            if any(_is_losing(logs) for logs in ratios):
                break
            found.append(heads)
        return found

    def is_decided(self) -> bool:
        """Whether more processes are useless: it has won, or gains too little somewhere.

        False while it gains enough everywhere, but perhaps by chance.
        """
        checks = self.checks()
        for heads in self.open_heads():
            places = [check for check in checks if check.heads == heads]
            if not all(is_won(check) for check in places):
                return not all(check.ratio <= 1 - LEAST_GAIN for check in places)
        return True

    def checks(self) -> list[Check]:
        """The measurements so far, at each length and number of heads."""
        found = []
        for (heads, seqlen), logs in self._log_ratios.items():
            if logs:
                built_in = built_in_blocks(problem_of(self.key, seqlen, heads=heads), self.key.direction)
                ratio, low, high = paired_ratio(logs, CONFIDENCE)
                found.append(
                    Check(seqlen=seqlen, heads=heads, built_in=built_in, ratio=ratio, low=low, high=high)
                )
        return found


def _is_losing(log_ratios: Sequence[float]) -> bool:
    """Whether it was not faster in most processes, and in at least two."""
    lost = sum(ratio >= 0 for ratio in log_ratios)
    return lost >= 2 and 2 * lost > len(log_ratios)


def heads_won(checks: Sequence[Check]) -> int | None:
    """The fewest heads such that all checks with as many or more were won; None if there are none."""
    found = None
    for heads in sorted({check.heads for check in checks}, reverse=True):
        if not all(is_won(check) for check in checks if check.heads == heads):
            break
        found = heads
    return found


def is_won(check: Check) -> bool:
    """Whether it is faster for certain, and by enough to accept that the last bits of results change.

    >>> is_won(Check(seqlen=256, heads=1, built_in=(16, 88), ratio=0.9, low=0.88, high=0.95))
    True
    >>> is_won(Check(seqlen=256, heads=1, built_in=(16, 88), ratio=0.9, low=0.7, high=1.01))
    False
    """
    return check.high < 1 and check.ratio <= 1 - LEAST_GAIN


def _fastest_call(timer: Timer, slot: str) -> float:
    """Nanoseconds of the fastest call of a burst. If other processes disturb it, more bursts follow."""
    best = math.inf
    for _ in range(1 + MOST_RETAKES):
        burst = timer.time(slot, 1, at_least_ns=BURST_NS, at_most=MOST_CALLS)
        best = min(best, *burst.samples_ns)
        if burst.cpu.wall_s < LEAST_SPAN_S or burst.cpu.others_cores < DISTURBED_CORES:
            break
    return best


def _prepare(
    timer: Timer, slot: str, problem: AttentionProblem, key: Key, blocks: Blocks, threads: int
) -> None:
    settings = Settings(blocks.block_q, blocks.block_k, num_threads=threads)
    point = Point(problem, "flash", key.direction, settings)
    timer.prepare(slot, workload.FACTORY, workload.arguments(point, seed=0))
