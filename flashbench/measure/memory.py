"""Peak memory of one call: what it allocates beyond what it returns, and how far the process grows.

There are two instruments. Neither may run during a timing.

- memray counts every allocation of the call in every thread, native code included, to the byte.
- The resident size counts the pages of those that were touched. It measures the call alone only in a process
  that has done nothing else: a call reuses memory that earlier calls freed before the process grows.

memray does not count memory that a library allocated in an earlier call and keeps, such as thread stacks and
a BLAS's packing buffers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from flashbench.system.sysfs import read_text

# Up to this size, Python's allocators serve objects: frames, tuples, tables of names. Most come from arenas
# that the interpreter keeps. NumPy also keeps blocks below 1 KiB for later arrays.
SMALL_OBJECT_BYTES = 1024
# Interpreter noise (code warming up, a table growing) differs between calls, buffers do not. So measure up to
# this many times and take the smallest figure. Measure a long call once: noise is small beside its buffers.
MEASURED_CALLS = 3
LONG_CALL_S = 0.5
# glibc's malloc.h: options of mallopt.
M_TRIM_THRESHOLD, M_TOP_PAD = -1, -2
DEFAULT_TOP_PAD = 128 * 1024
NEVER = 2**31 - 1


class PeakMemory(NamedTuple):
    """Bytes of one call beyond its inputs and outputs; resident_delta_bytes includes its outputs."""

    workspace_peak_bytes: int
    resident_delta_bytes: int
    instrument: Literal["memray", "resident"] = "memray"  # of workspace_peak_bytes


class Event(NamedTuple):
    """An allocation of `size` bytes at `address`, or the release of what was there."""

    address: int
    size: int
    released: bool


def measure_memory(
    call: Callable[[], None], output_bytes: int, forget: Callable[[], None] = lambda: None
) -> PeakMemory:
    """Workspace and resident growth of `call`, which must have run once before.

    `output_bytes` is the size of the outputs, which stay alive until the next call or `forget`. Without
    memray (Windows), the workspace is the resident growth minus the outputs.
    """
    with _collector_off():
        resident = _smallest(lambda: resident_growth(call, forget))
        if importlib.util.find_spec("memray") is None:
            return PeakMemory(max(0, resident - output_bytes), resident, "resident")
        return PeakMemory(_smallest(lambda: workspace_peak(track(call), output_bytes)), resident)


def _smallest(measure: Callable[[], int]) -> int:
    """The smallest of up to `MEASURED_CALLS` figures. It stops after one long call, or once two agree."""
    figures: list[int] = []
    while len(figures) < MEASURED_CALLS:
        start = time.monotonic()
        figures.append(measure())
        if time.monotonic() - start > LONG_CALL_S or figures[-1] in figures[:-1]:
            break
    return min(figures)


def workspace_peak(events: Iterable[Event], output_bytes: int) -> int:
    """Most bytes in use at any moment, not counting outputs.

    Outputs are the blocks that survive the call, up to `output_bytes`; more is a leak, and counts. An output
    allocated after the peak does not lower the peak.

    >>> scores, o = Event(1, 800, False), Event(2, 100, False)
    >>> workspace_peak([scores, Event(1, 0, True), o], output_bytes=100)
    800
    """
    steps = list(events)
    kept: dict[int, int] = {}  # address -> index of the allocation that survives
    for index, event in enumerate(steps):
        if event.released:
            kept.pop(event.address, None)
        else:
            kept[event.address] = index
    survivors = set(kept.values())
    live: dict[int, int] = {}
    in_use = outputs = peak = 0
    for index, event in enumerate(steps):
        if event.released:
            in_use -= live.pop(event.address, 0)
        else:
            in_use += event.size - live.get(event.address, 0)
            live[event.address] = event.size
            outputs += event.size if index in survivors else 0
        peak = max(peak, in_use - min(outputs, output_bytes))
    return peak


def track(call: Callable[[], None]) -> list[Event]:
    """Every allocation and release during one call, in order, without the interpreter's small objects."""
    from memray import AllocatorType, FileDestination, FileReader, Tracker

    python = {AllocatorType.PYMALLOC_MALLOC, AllocatorType.PYMALLOC_CALLOC, AllocatorType.PYMALLOC_REALLOC}
    releases = {AllocatorType.FREE, AllocatorType.PYMALLOC_FREE, AllocatorType.MUNMAP}
    with tempfile.TemporaryDirectory(prefix="flashbench-") as directory:
        path = Path(directory, "memray.bin")
        # Trace Python's allocators, so that memray shows objects instead of arenas.
        tracker = Tracker(destination=FileDestination(path), trace_python_allocators=True)
        with tracker:
            call()
        with FileReader(path) as reader:
            events = [
                Event(record.address, record.size, record.allocator in releases)
                for record in reader.get_allocation_records()
                if not (record.allocator in python and record.size <= SMALL_OBJECT_BYTES)
            ]
    return events


def resident_growth(call: Callable[[], None], forget: Callable[[], None] = lambda: None) -> int:
    """How far the process's resident memory rises above its level before the call, outputs included.

    It first drops the outputs of an earlier call: a call that reused their memory would not grow. Linux knows
    the exact peak. Elsewhere the peak is sampled, which misses the peak of a very short call.
    """
    _return_free_memory(call, forget)
    before = _resident()
    if _reset_peak_resident():
        call()
        # Since 6.2 Linux counts pages per core and adds them up now and then, so its peak may be low by some
        # 128 KiB a thread. The size after the call is counted page by page, and malloc has kept all blocks
        # except huge ones, beside which 128 KiB are little.
        return max(0, max(_peak_resident(), _resident()) - before)
    with _sampled(_resident) as samples:
        call()
    return max(0, max(samples) - before)


def _resident() -> int:
    """Resident bytes: exact where Linux walks its page tables, otherwise from counters."""
    for line in (read_text(Path("/proc/self/smaps_rollup")) or "").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def _reset_peak_resident() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or a sandbox that forbids it
        return False
    return True


def _peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


@contextlib.contextmanager
def _sampled(read: Callable[[], int]) -> Iterator[list[int]]:
    """Results of `read`, called repeatedly in another thread while the body runs."""
    samples = [read()]
    finished = threading.Event()

    def sample() -> None:
        while not finished.wait(0.001):
            samples.append(read())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        finished.set()
        thread.join()
        samples.append(read())


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Collect garbage now, and not during the body."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _return_free_memory(call: Callable[[], None], forget: Callable[[], None]) -> None:
    """Make malloc return the memory that it keeps from earlier calls, and keep all memory from then on.

    Only glibc can do this. It returns the end of a thread's own heap only when that thread frees something,
    so this makes one more call.
    """
    libc: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        forget()
        return
    libc.mallopt(M_TOP_PAD, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    call()
    forget()
    libc.malloc_trim(0)
    libc.mallopt(M_TOP_PAD, DEFAULT_TOP_PAD)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
