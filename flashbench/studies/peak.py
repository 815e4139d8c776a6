"""The hardware limit as one more contestant: the products of a path from registers, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns
from typing import Any

from flashbench.dtypes import Dtype

FACTORY = "flashbench.studies.peak:build"
# A call is long enough to hide the start of its threads, and short enough that one in a burst is not
# interrupted.
CALL_NS = 5_000_000
BURST_NS = 30_000_000


def build(dtype: Dtype, threads: int, path: str) -> PeakWorkload:
    """The workload that reaches the limit of `threads` threads by a path."""
    from flashbench.kernels.probes import peak as probes  # here, so that the parent need not load Numba
    from flashbench.kernels.products.paths import path_of

    burst = getattr(probes, path_of(dtype, path).peak)  # asks for the path's permission, if it needs one
    return PeakWorkload(lambda iterations: burst(dtype, iterations, threads))


class PeakWorkload:
    """Calls of about `CALL_NS` and a known number of operations.

    `run(iterations)` does the work and returns how many operations that was.
    """

    def __init__(self, run: Callable[[int], int]) -> None:
        self._run = run
        self._flops = run(1)  # compiles
        self._iterations = 1
        # The shortest of a few: one that is interrupted for as long as that would seem long enough.
        while min(self._nanoseconds() for _ in range(3)) < CALL_NS:
            self._iterations *= 2

    def call(self) -> None:
        """Multiply and add on every thread."""
        # The most of all calls: a thread that wakes too late for its share does not count in `run`.
        self._flops = max(self._flops, self._run(self._iterations))

    def forget(self) -> None:
        """Nothing is kept."""

    def check(self) -> dict[str, Any]:
        """Nothing: the results are thrown away."""
        return {}

    def describe(self) -> dict[str, Any]:
        """{"flops": operations of one call}."""
        return {"flops": self._flops}

    def _nanoseconds(self) -> int:
        start = perf_counter_ns()
        self.call()
        return perf_counter_ns() - start


def peak_gflops(flops: int, bursts: Sequence[Sequence[int]]) -> float | None:
    """The limit that the engines met: the best call of each burst, the median of the bursts.

    Within a burst slower calls were interrupted. Between bursts the clock changes, and what the
    machine could do at its coolest moment is not what the engines, whose medians are compared with
    it, had to work with.

    >>> peak_gflops(1000, [[10, 12], [11, 30], [8, 9]])
    100.0
    """
    best = [min(burst) for burst in bursts if burst]
    return flops / median(best) if best else None
