"""Peak memory of one call: what it allocates beyond what it returns, and how far the process grows.

Two instruments, neither of which may run beside a timing:

- memray sees every allocation of the call in every thread, native code included, to the byte;
- the resident size is what was touched of that, in pages. It tells something of the call alone only in a
  process that has done nothing else: what others left behind is used again before anything grows.

Memory that a library took at an earlier call and keeps (thread stacks, the packing buffers of a BLAS)
is not allocated by the call and not counted by memray.
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

# What Python's own allocators hand out up to this size is objects: frames, tuples, tables of names. Most
# come from arenas that the interpreter keeps. NumPy, too, keeps blocks below 1 KiB for later arrays.
SMALL_OBJECT_BYTES = 1024
# Interpreter noise (code warming up, a table growing) differs between calls, buffers do not: measure up
# to this many times and believe the smallest. A long call is measured once: there it is not worth it.
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
    """Workspace and resident growth of `call`, which must have been called before.

    `output_bytes` is the size of what the call returns and keeps alive until the next call or `forget`.
    Where memray does not exist (Windows), the resident growth less the outputs stands in for the workspace.
    """
    with _collector_off():
        resident = _smallest(lambda: resident_growth(call, forget))
        if importlib.util.find_spec("memray") is None:
            return PeakMemory(max(0, resident - output_bytes), resident, "resident")
        return PeakMemory(_smallest(lambda: workspace_peak(track(call), output_bytes)), resident)


def _smallest(measure: Callable[[], int]) -> int:
    """The smallest of up to `MEASURED_CALLS` figures; one is enough of a long call, or if two agree."""
    figures: list[int] = []
    while len(figures) < MEASURED_CALLS:
        start = time.monotonic()
        figures.append(measure())
        if time.monotonic() - start > LONG_CALL_S or figures[-1] in figures[:-1]:
            break
    return min(figures)


def workspace_peak(events: Iterable[Event], output_bytes: int) -> int:
    """Most bytes in use at any moment, not counting outputs.

    Outputs are what is still there at the end, up to `output_bytes`; more than that is a leak, and
    counted. An output that is made only after the peak does not lower the peak.

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
        # Python's own allocators are traced so that memray shows objects instead of arenas.
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

    Outputs of an earlier call are forgotten first: where this call found their memory it would not grow.
    Linux tells the exact peak; elsewhere it is sampled, and the peak of a very short call is missed.
    """
    _return_free_memory(call, forget)
    before = _resident()
    if _reset_peak_resident():
        call()
        # Linux counts pages by core and adds up now and then (from 6.2 on): its peak may be low by some
        # 128 KiB a thread. What is there after the call is counted page by page, and malloc has kept all
        # blocks but the huge ones, of which that is a small part.
        return max(0, max(_peak_resident(), _resident()) - before)
    with _sampled(_resident) as samples:
        call()
    return max(0, max(samples) - before)


def _resident() -> int:
    """Bytes in memory: exact where Linux walks its page tables for it, otherwise by its counters."""
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
    """What `read` returned, again and again in another thread, while the body ran."""
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
    """The garbage collector has run and does not run in the body."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _return_free_memory(call: Callable[[], None], forget: Callable[[], None]) -> None:
    """Make malloc give back what it keeps from earlier calls, and from then on keep everything.

    Only glibc can, and the end of a thread's own heap it gives back only when something is freed there:
    hence another call.
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
