"""The hardware's limits as contestants of a run: products from registers, and reading memory."""

from __future__ import annotations

import contextlib
from statistics import median

from flashbench.dtypes import Dtype
from flashbench.measure.pool import WorkerPool
from flashbench.measure.worker import WorkerFailure
from flashbench.results.peaks import peak_name
from flashbench.studies import peak
from flashbench.studies.bandwidth import measure_bandwidth

PEAK_WORKER = "peak"
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
        self.threads = threads
        # By `peak_name`.
        self._flops: dict[str, int] = {}  # of one call
        self._bursts: dict[str, list[list[int]]] = {}
        self._lost: set[str] = set()
        self._bandwidths: list[float] = []

    def time_peak(self, dtype: Dtype, path: str) -> None:
        """One burst of a path's products."""
        name = peak_name(dtype, path)
        if name in self._lost:
            return
        try:
            with self._pool.turn(PEAK_WORKER) as worker:
                if name not in self._flops:
                    arguments = {"dtype": dtype, "threads": self.threads, "path": path}
                    self._flops[name] = worker.prepare(name, peak.FACTORY, arguments)["flops"]
                burst = worker.time(name, 1, at_least_ns=peak.BURST_NS, at_most=PEAK_CALLS)
                self._bursts.setdefault(name, []).append(burst.samples_ns)
        except WorkerFailure:
            self._lost.add(name)

    def time_bandwidth(self, bursts: int = BANDWIDTH_BURSTS) -> None:
        """How fast all threads together read memory, from a fresh process: it takes a gigabyte."""
        with contextlib.suppress(WorkerFailure), self._pool.fresh() as worker:
            found = measure_bandwidth(worker, self.threads, bursts=bursts)
            self._bandwidths += [] if found is None else [found]

    @property
    def read_bandwidth_gbps(self) -> float | None:
        """The median of what was measured; None: nothing was."""
        return median(self._bandwidths) if self._bandwidths else None

    def peak_gflops(self) -> dict[str, float]:
        """The peak of each dtype and path, where it could be measured, by `peak_name`."""
        found = {name: peak.peak_gflops(self._flops[name], bursts) for name, bursts in self._bursts.items()}
        return {name: value for name, value in found.items() if value is not None}
