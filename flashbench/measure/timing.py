"""Bursts of timed calls in a child, and the order in which contestants take turns in the parent."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from time import perf_counter_ns

# Beside a call this long the first one's cold caches and sleeping threads do not show: it counts.
LONG_CALL_NS = 500_000_000
# A call this long is not repeated within a burst; the rounds repeat it.
VERY_LONG_CALL_NS = 5_000_000_000


def burst(call: Callable[[], None], repeats: int, *, at_least_ns: int, at_most: int) -> list[int]:
    """Nanoseconds of single calls, one after the other, with the garbage collector off.

    The first call is discarded: it wakes the threads and fills the caches. Short calls are repeated
    until about `at_least_ns` have passed, but not more than `at_most` times; never fewer than
    `repeats`, except that a call of more than 5 s is made just once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        first = _timed(call)
        if first >= VERY_LONG_CALL_NS:
            return [first]
        samples = [first] if first >= LONG_CALL_NS else []
        total = sum(samples)
        while len(samples) < repeats or (total < at_least_ns and len(samples) < at_most):
            samples.append(_timed(call))
            total += samples[-1]
        return samples
    finally:
        if was_enabled:
            gc.enable()


def _timed(call: Callable[[], None]) -> int:
    start = perf_counter_ns()
    call()
    return perf_counter_ns() - start


def turns(contestants: int, rounds: int) -> Iterator[tuple[int, int]]:
    """(round, contestant): everyone once a round, each round led by another, so that none always follows
    the same neighbour.

    >>> list(turns(3, 2))
    [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 0)]
    """
    for number in range(rounds):
        for place in range(contestants):
            yield number, (number + place) % contestants
