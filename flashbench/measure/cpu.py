"""Who used the CPUs: this process, other processes, or other guests of the host (steal)."""

from __future__ import annotations

from time import perf_counter, process_time
from typing import NamedTuple

import psutil


class CpuUse(NamedTuple):
    """CPU seconds between two readings of the counters, and the wall time between them."""

    wall_s: float
    others_s: float  # of all other processes
    steal_s: float  # given by the hypervisor to other guests while this machine had work to do
    # Periods in which a control group used up its CPU quota, so that every thread waited for the next period.
    throttled_periods: int = 0

    @property
    def others_cores(self) -> float:
        """How many cores other processes kept busy, on average."""
        return self.others_s / self.wall_s if self.wall_s > 0 else 0.0

    def __add__(self, more: object) -> CpuUse:
        """The sum of two spans."""
        if not isinstance(more, CpuUse):
            return NotImplemented
        return CpuUse(
            self.wall_s + more.wall_s,
            self.others_s + more.others_s,
            self.steal_s + more.steal_s,
            self.throttled_periods + more.throttled_periods,
        )


NO_USE = CpuUse(0.0, 0.0, 0.0)


class CpuMeter:
    """Reads the counters on creation and at each `read`. They advance in steps of about 10 ms."""

    def __init__(self) -> None:
        self._wall, self._own = perf_counter(), process_time()
        self._busy, self._steal = _busy_and_steal()

    def read(self) -> CpuUse:
        """The use since the meter was created. Differences below zero, from coarse counters, count as 0."""
        busy, steal = _busy_and_steal()
        own = process_time() - self._own
        return CpuUse(
            perf_counter() - self._wall, max(0.0, busy - self._busy - own), max(0.0, steal - self._steal)
        )


def steal_share() -> float | None:
    """Share of the CPU time wanted since boot that the hypervisor gave to others; None: unknown."""
    times = psutil.cpu_times()
    if not hasattr(times, "steal"):
        return None
    busy, steal = _busy_and_steal()
    return float(steal / (busy + steal)) if busy + steal else 0.0


def _busy_and_steal() -> tuple[float, float]:
    """CPU seconds of all cores since boot: used by any process, and stolen."""
    times = psutil.cpu_times()
    steal = getattr(times, "steal", 0.0)
    # On Linux user and nice include the time of this machine's own guests.
    fields = ("user", "nice", "system", "irq", "softirq")
    return sum(getattr(times, name, 0.0) for name in fields), steal
