"""How fast memory can be read, by all threads at once: the other limit of the hardware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from flashbench.measure.machine import available_memory_bytes, cache_bytes
from flashbench.measure.worker import Worker

FACTORY = "flashbench.studies.bandwidth:build"
BURST_NS = 150_000_000
BURST_CALLS = 20
BURSTS = 5
# Times the last-level cache: less than half of the reads can then hit it. A virtual machine may report the
# whole cache of a large host, so that MOST_BYTES limits the time.
TIMES_CACHE = 2
LEAST_BYTES = 256 * 1024**2
MOST_BYTES = 1024**3
SHARE_OF_FREE_MEMORY = 1 / 8


def build(size_bytes: int, threads: int) -> BandwidthWorkload:
    """The workload that reads about `size_bytes` on `threads` threads."""
    # Not at the top: the parent process need not load Numba.
    from flashbench.kernels.probes.bandwidth import SharedMemory

    memory = SharedMemory(size_bytes, threads)
    return BandwidthWorkload(memory.read, memory.size_bytes)


class BandwidthWorkload:
    """Calls that read and sum a known number of bytes, which are float64 ones."""

    def __init__(self, read: Callable[[], float], size_bytes: int) -> None:
        self._read = read
        self._size_bytes = size_bytes
        self._sum = 0.0

    def call(self) -> None:
        """Read everything once."""
        self._sum = self._read()

    def forget(self) -> None:
        """Nothing is kept."""

    def check(self) -> dict[str, Any]:
        """{"complete": whether the last call read everything}."""
        return {"complete": self._sum == self._size_bytes / 8}

    def describe(self) -> dict[str, Any]:
        """{"bytes": what one call reads}."""
        return {"bytes": self._size_bytes}


def buffer_bytes() -> int:
    """A size beyond the caches, if memory allows."""
    wanted = min(MOST_BYTES, max(LEAST_BYTES, TIMES_CACHE * cache_bytes()))
    return min(wanted, int(available_memory_bytes() * SHARE_OF_FREE_MEMORY))


def read_bandwidth_gbps(size_bytes: int, bursts: Sequence[Sequence[int]]) -> float | None:
    """10^9 bytes a second: the median over bursts of each burst's best call, as in `studies.peak`.

    >>> read_bandwidth_gbps(1000, [[10, 12], [50, 20], [25, 30]])
    50.0
    """
    best = [min(burst) for burst in bursts if burst]
    return size_bytes / median(best) if best else None


def measure_bandwidth(worker: Worker, threads: int, *, bursts: int) -> float | None:
    """The read bandwidth of `threads` threads, measured in the worker; its memory is freed afterwards.

    Raises WorkerFailure.
    """
    arguments = {"size_bytes": buffer_bytes(), "threads": threads}
    size_bytes = worker.prepare("bandwidth", FACTORY, arguments)["bytes"]
    samples = [
        worker.time("bandwidth", 1, at_least_ns=BURST_NS, at_most=BURST_CALLS).samples_ns
        for _ in range(bursts)
    ]
    worker.release("bandwidth")
    return read_bandwidth_gbps(size_bytes, samples)
