"""The number of threads that a call uses by default."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic

from flashbench.system.affinity import process_cores
from flashbench.system.cgroup import cpu_quota
from flashbench.system.numba_settings import numba_num_threads

# A quota may change while the process runs, but reading it takes as long as a short call.
_QUOTA_LASTS_S = 1.0
_process_cpu_count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
_quota: float | None = None
_quota_read_s = -math.inf


def available_cores() -> int:
    """Number of cores that this process may use: those that it may run on, lowered by three limits.

    The limits are the CPU time of its control groups (a part of a core counts as one), $NUMBA_NUM_THREADS (as
    for Numba), and $PYTHON_CPU_COUNT (as for Python since 3.13).

    Raises ConfigError if NUMBA_NUM_THREADS is not a whole number from 1 up.
    """
    # Every call without num_threads runs this, so it must take only some microseconds.
    allowed = process_cores()
    cores = (os.cpu_count() or 1) if allowed is None else len(allowed)
    for limit in (_recent_quota(), numba_num_threads(), _python_cpu_count()):
        if limit is not None and limit < cores:
            cores = math.ceil(limit)
    return cores


def _recent_quota() -> float | None:
    global _quota, _quota_read_s
    time_s = monotonic()
    if time_s - _quota_read_s > _QUOTA_LASTS_S:
        _quota, _quota_read_s = cpu_quota(), time_s
    return _quota


def _python_cpu_count() -> int | None:
    """The number from $PYTHON_CPU_COUNT or -X cpu_count (Python 3.13 and later); None if not set."""
    if _process_cpu_count is None:
        return None
    count: int | None = _process_cpu_count()
    # Without a setting it counts the calling thread's mask, or all cores if there are no masks.
    default = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return None if count == default else count
