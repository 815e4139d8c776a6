"""The hardware's limits as contestants of a run: multiply-adds from registers, and reading memory."""

from __future__ import annotations

import contextlib
from statistics import median

from flashbench.dtypes import Dtype
from flashbench.measure.pool import WorkerPool
from flashbench.measure.worker import WorkerFailure
from flashbench.studies import peak
from flashbench.studies.bandwidth import measure_bandwidth

PEAK_WORKER = "fma peak"
PEAK_CALLS = 50
# Enough for a line in a roofline; `flashbench machine` takes more.
BANDWIDTH_BURSTS = 2


class Limits:
    """What the machine can do, measured beside the engines, so that it met the same conditions.

    Without a limit rows have no percentage, and are rows all the same: a failure is not tried again.
    """

    def __init__(self, pool: WorkerPool, threads: int) -> None:
        """Measured in a worker of that pool."""
        self._pool = pool
        self._threads = threads
        self._flops: dict[Dtype, int] = {}  # of one call
        self._bursts: dict[Dtype, list[list[int]]] = {}
        self._lost: set[Dtype] = set()
        self._bandwidths: list[float] = []

    def time_peak(self, dtype: Dtype) -> None:
        """One burst of multiply-adds."""
        if dtype in self._lost:
            return
        try:
            with self._pool.turn(PEAK_WORKER) as worker:
                if dtype not in self._flops:
                    arguments = {"dtype": dtype, "threads": self._threads}
                    self._flops[dtype] = worker.prepare(dtype, peak.FACTORY, arguments)["flops"]
                burst = worker.time(dtype, 1, at_least_ns=peak.BURST_NS, at_most=PEAK_CALLS)
                self._bursts.setdefault(dtype, []).append(burst.samples_ns)
        except WorkerFailure:
            self._lost.add(dtype)

    def time_bandwidth(self, bursts: int = BANDWIDTH_BURSTS) -> None:
        """How fast all threads together read memory, from a fresh process: it takes a gigabyte."""
        with contextlib.suppress(WorkerFailure), self._pool.fresh() as worker:
            found = measure_bandwidth(worker, self._threads, bursts=bursts)
            self._bandwidths += [] if found is None else [found]

    @property
    def read_bandwidth_gbps(self) -> float | None:
        """The median of what was measured; None: nothing was."""
        return median(self._bandwidths) if self._bandwidths else None

    def peak_gflops(self) -> dict[str, float]:
        """The multiply-add peak of each dtype, where it could be measured."""
        found = {
            dtype: peak.peak_gflops(self._flops[dtype], bursts) for dtype, bursts in self._bursts.items()
        }
        return {dtype: value for dtype, value in found.items() if value is not None}
