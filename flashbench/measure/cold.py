"""Evict the caches, to time a call whose data is in memory only."""

from __future__ import annotations

import os
import threading
from functools import cache

import numpy as np
from numpy.typing import NDArray

from flashbench.measure.machine import available_memory_bytes, cache_bytes
from flashbench.system.affinity import process_cores

# Write more than the last-level cache holds, because it does not replace strictly the oldest lines first. A
# guest may see the cache size of a big host and own a small part: above MOST_BYTES it is not worth the time.
TIMES_CACHE = 2
LEAST_BYTES = 64 * 1024**2
MOST_BYTES = 512 * 1024**2


def evict_caches() -> None:
    """Write to more memory than the caches hold, on each core in turn, as each core has caches of its own."""
    buffer = _buffer()
    cores = process_cores()
    if cores is None:
        buffer += 1
        return
    for core in sorted(cores):
        thread = threading.Thread(target=_write_on, args=(core, buffer))  # changes its own affinity only
        thread.start()
        thread.join()


def _write_on(core: int, buffer: NDArray[np.uint8]) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError:  # the process lost this core meanwhile, so its caches do not matter
        return
    buffer += 1


@cache
def _buffer() -> NDArray[np.uint8]:
    wanted = min(MOST_BYTES, max(LEAST_BYTES, TIMES_CACHE * cache_bytes()))
    return np.zeros(min(wanted, max(LEAST_BYTES, available_memory_bytes() // 8)), np.uint8)
