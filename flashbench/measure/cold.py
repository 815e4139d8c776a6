"""Empty caches: what a call costs when nothing it needs has been touched for a while."""

from __future__ import annotations

import os
import threading
from functools import cache

import numpy as np
from numpy.typing import NDArray

from flashbench.measure.machine import available_memory_bytes, cache_bytes
from flashbench.system.affinity import process_cores

# More than the last-level cache, whose replacement is not quite the oldest first. A guest may be told of
# the whole cache of a big host, of which it has a small part: more than this is not worth the time.
TIMES_CACHE = 2
LEAST_BYTES = 64 * 1024**2
MOST_BYTES = 512 * 1024**2


def evict_caches() -> None:
    """Write to more memory than the caches hold, on each core in turn, for each has caches of its own."""
    buffer = _buffer()
    cores = process_cores()
    if cores is None:
        buffer += 1
        return
    for core in sorted(cores):
        thread = threading.Thread(target=_write_on, args=(core, buffer))  # only a thread's own mask moves
        thread.start()
        thread.join()


def _write_on(core: int, buffer: NDArray[np.uint8]) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError:  # taken from this process meanwhile: then its caches are of no interest
        return
    buffer += 1


@cache
def _buffer() -> NDArray[np.uint8]:
    wanted = min(MOST_BYTES, max(LEAST_BYTES, TIMES_CACHE * cache_bytes()))
    return np.zeros(min(wanted, max(LEAST_BYTES, available_memory_bytes() // 8)), np.uint8)
