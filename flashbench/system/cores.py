"""How many threads are worth running here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic

from flashbench.system.affinity import process_cores
from flashbench.system.cgroup import cpu_quota
from flashbench.system.numba_settings import numba_num_threads

# A quota may be changed while a process runs, and reading it takes as long as a short call.
_QUOTA_LASTS_S = 1.0
_process_cpu_count: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
_quota: float | None = None
_quota_read_s = -math.inf


def available_cores() -> int:
    """Cores that this process may run on, and no more than the CPU time that its control groups allow, a part
    of a core counting as one; $NUMBA_NUM_THREADS lowers it, as it does for Numba, and so does
    $PYTHON_CPU_COUNT, as for Python since 3.13.

    Raises ConfigError when NUMBA_NUM_THREADS is no number of threads.
    """
    # Asked in every call that is not told how many: straight on, in some microseconds.
    allowed = process_cores()
    cores = (os.cpu_count() or 1) if allowed is None else len(allowed)
    for limit in (_recent_quota(), numba_num_threads(), _python_cpu_count()):
        if limit is not None and limit < cores:
            cores = math.ceil(limit)
    return cores


def _recent_quota() -> float | None:
    global _quota, _quota_read_s
    now = monotonic()
    if now - _quota_read_s > _QUOTA_LASTS_S:
        _quota, _quota_read_s = cpu_quota(), now
    return _quota


def _python_cpu_count() -> int | None:
    """What $PYTHON_CPU_COUNT or -X cpu_count says, which only Python 3.13 and later know."""
    if _process_cpu_count is None:
        return None
    told: int | None = _process_cpu_count()
    # Not told, it is the calling thread's mask, or where there is none every core.
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return None if told == own else told
