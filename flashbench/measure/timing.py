"""Bursts of timed calls in a child, and the order of turns in the parent."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter_ns
from typing import NamedTuple

from flashbench.measure.cpu import CpuMeter, CpuUse
from flashbench.measure.energy import EnergyMeter

# In a call this long, cold caches and sleeping threads do not show: the first call counts too.
LONG_CALL_NS = 500_000_000
# A burst makes such a long call once; the rounds repeat it.
VERY_LONG_CALL_NS = 5_000_000_000


class Burst(NamedTuple):
    """Timed calls, and what else happened meanwhile."""

    samples_ns: list[int]
    cpu: CpuUse  # during all calls, the discarded one included
    joules_per_call: float | None  # None: no counter, or other work ran between the calls


def burst(
    call: Callable[[], None],
    repeats: int,
    *,
    at_least_ns: int,
    at_most: int,
    between: Callable[[], None] | None = None,
) -> Burst:
    """Nanoseconds of single calls, one after the other, with the garbage collector off.

    The first call is discarded: it wakes the threads and fills the caches. A burst has at least `repeats`
    calls. Short calls are repeated until about `at_least_ns` have passed, at most `at_most` times. A call of
    more than 5 s is made just once. `between` runs before each call and is not timed.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        cpu, energy = CpuMeter(), EnergyMeter()
        samples = _samples(_timed(call, between), call, repeats, at_least_ns, at_most, between, energy)
        joules = energy.joules() if between is None else None
        return Burst(samples, cpu.read(), None if joules is None else joules / len(samples))
    finally:
        if was_enabled:
            gc.enable()


def _samples(
    first: int,
    call: Callable[[], None],
    repeats: int,
    at_least_ns: int,
    at_most: int,
    between: Callable[[], None] | None,
    energy: EnergyMeter,
) -> list[int]:
    """The counted calls; `first` is the time of the first call, made before."""
    if first >= VERY_LONG_CALL_NS:
        return [first]
    samples = [first] if first >= LONG_CALL_NS else []
    if not samples:
        energy.restart()
    total = sum(samples)
    while len(samples) < repeats or (total < at_least_ns and len(samples) < at_most):
        samples.append(_timed(call, between))
        total += samples[-1]
    return samples


def _timed(call: Callable[[], None], between: Callable[[], None] | None) -> int:
    if between is not None:
        between()
    start = perf_counter_ns()
    call()
    return perf_counter_ns() - start


def turn_order(contestants: int, number: int) -> list[int]:
    """Everyone once, each round led by the next contestant.

    >>> [turn_order(3, number) for number in range(2)]
    [[0, 1, 2], [1, 2, 0]]
    """
    return [(number + place) % contestants for place in range(contestants)]
