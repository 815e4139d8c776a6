"""Peak memory agrees with known allocations, to the kilobyte."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import psutil
import pytest
from helpers import fake_workloads
from helpers.fake_workloads import Fake
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from flashbench.measure import memory
from flashbench.measure.memory import Event, measure_memory, resident_growth, track, workspace_peak
from flashbench.measure.worker import Worker

KB = 1024
MB = 1024 * KB
NOISE = 1024


def workspace_of(call: Callable[[], Any], output_bytes: int = 0) -> int:
    fake = Fake(call, output_bytes)
    fake.call()
    return measure_memory(fake.call, output_bytes).workspace_peak_bytes


def test_call_that_allocates_nothing_has_no_workspace() -> None:
    assert workspace_of(lambda: None) == 0


@pytest.mark.parametrize("size", [8 * KB, 300 * KB, 5 * MB, 64 * MB])
def test_one_buffer_is_measured_to_the_byte(size: int) -> None:
    assert workspace_of(lambda: np.empty(size, np.uint8)) == size


def test_buffers_that_are_not_alive_together_do_not_add_up() -> None:
    def call() -> None:
        for _ in range(4):
            np.empty(MB, np.uint8)

    assert workspace_of(call) == MB


def test_outputs_are_not_workspace() -> None:
    assert workspace_of(lambda: np.ones(MB, np.uint8), MB) == 0


def test_output_made_after_the_peak_does_not_lower_it() -> None:
    def call() -> Any:
        np.empty(16 * KB, np.uint8)
        return np.empty(MB, np.uint8)

    assert workspace_of(call, MB) == pytest.approx(16 * KB, abs=NOISE)


def test_what_leaks_beyond_the_outputs_is_workspace() -> None:
    leak = []

    def call() -> Any:
        leak.append(np.empty(64 * KB, np.uint8))
        return np.empty(MB, np.uint8)

    assert workspace_of(call, MB) == pytest.approx(64 * KB, abs=NOISE)


def test_numpy_attention_needs_two_score_matrices_and_little_more() -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 256, 64))

    def call() -> Any:
        scores = q @ k.T
        weights = np.exp(scores)
        return weights @ v

    with threadpool_limits(1):  # on two threads, OpenBLAS takes 512 KiB for each product
        assert workspace_of(call, q.nbytes) == pytest.approx(2 * 256 * 256 * 8, abs=NOISE)


@numba.njit(nogil=True)
def empty_inside_njit(size: int) -> int:
    """np.empty in machine code: memory that no Python allocator knows."""
    buffer = np.empty(size, np.uint8)
    buffer[0] = 7
    buffer[size - 1] = 1
    return buffer[0] + buffer[size - 1]


@functools.cache
def numba_header_bytes() -> int:
    """Bytes that Numba adds to an array's data: a reference count before it, and padding to align it."""
    empty_inside_njit(MB)
    return max(event.size for event in track(lambda: empty_inside_njit(MB))) - MB


@pytest.mark.parametrize("size", [8 * KB, 300 * KB, 5 * MB, 64 * MB])
@pytest.mark.parametrize("thread", ["caller", "another"])
def test_empty_inside_njit_is_seen_to_the_byte(size: int, thread: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def call() -> None:
            if thread == "caller":
                empty_inside_njit(size)
            else:
                pool.submit(empty_inside_njit, size).result()

        call()  # compiles, and starts the thread
        events = [event for event in track(call) if event.size >= size]
    assert [event.size for event in events] == [size + numba_header_bytes()]
    assert 0 < numba_header_bytes() <= 128


def test_empty_inside_njit_is_workspace() -> None:
    assert workspace_of(lambda: empty_inside_njit(16 * KB)) == pytest.approx(
        16 * KB + numba_header_bytes(), abs=NOISE
    )


def test_memory_taken_in_other_threads_is_seen() -> None:
    both_hold = threading.Barrier(2, timeout=20)

    def hold() -> None:
        buffer = np.ones(MB, np.uint8)
        both_hold.wait()
        del buffer

    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        def call() -> None:
            for future in [pool.submit(hold), pool.submit(hold)]:
                future.result()

        assert workspace_of(call) == pytest.approx(2 * MB, abs=4 * KB)


def test_interpreter_objects_are_not_workspace() -> None:
    # Without this, an arena of 1 MB that the interpreter allocates for them would be counted.
    assert workspace_of(lambda: [[number] for number in range(1000)][-1]) < 16 * KB


def test_small_calls_are_tracked_until_two_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = iter([700, 0, 0])
    tracked = [0]

    def noisy(call: Callable[[], None]) -> list[Event]:
        tracked[0] += 1
        return [Event(1, 8192 + next(noise), False), Event(1, 0, True)]

    monkeypatch.setattr(memory, "track", noisy)
    monkeypatch.setattr(memory, "resident_growth", lambda call, forget: 0)
    assert measure_memory(lambda: None, 0).workspace_peak_bytes == 8192
    assert tracked == [3]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [80 * KB, 600 * KB, 3 * MB])
def test_resident_growth_agrees_with_memray(size: int, threads: int) -> None:
    """In a new process, as a run measures it: this process's heap is full of holes."""
    arguments = {"size": size, "threads": threads}
    with Worker(1, timeout_s=60) as worker:
        worker.prepare("grow", f"{fake_workloads.__name__}:build_growing", arguments)
        measured = worker.memory("grow")
    assert measured.instrument == "memray"
    # The growth includes pages of the interpreter.
    assert abs(measured.resident_delta_bytes - measured.workspace_peak_bytes) < 64 * KB


def in_a_process(measure: Callable[[], Any]) -> Any:
    """The function's result in a new process: here, other tests' garbage comes and goes by megabytes."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure).result()


def growth_with_outputs() -> int:
    fake = Fake(lambda: np.ones(40 * MB, np.uint8), 40 * MB)
    fake.call()
    return resident_growth(fake.call, fake.forget)


def test_outputs_of_an_earlier_call_do_not_hide_growth() -> None:
    assert in_a_process(growth_with_outputs) == pytest.approx(40 * MB, rel=0.02)


def resident_pages() -> tuple[int, int, int]:
    before = memory._resident()
    buffer = np.ones(64 * MB, np.uint8)
    after, of_the_system = memory._resident(), psutil.Process().memory_info().rss
    del buffer
    return before, after, of_the_system


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the file")
def test_resident_is_what_linux_counts_page_by_page() -> None:
    before, after, of_the_system = in_a_process(resident_pages)
    assert after - before == pytest.approx(64 * MB, abs=256 * KB)
    # The system's own counter, which sums its cores only from time to time.
    assert after == pytest.approx(of_the_system, abs=4 * MB)


def growth() -> int:
    return resident_growth(lambda: np.ones(64 * MB, np.uint8))


def test_resident_growth_is_what_the_process_gained() -> None:
    assert in_a_process(growth) == pytest.approx(64 * MB, rel=0.05)


def sampled_growth() -> int:
    """The growth found by sampling, for systems that do not report a peak."""

    def call() -> None:
        buffer = np.ones(64 * MB, np.uint8)
        threading.Event().wait(0.1)
        del buffer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_reset_peak_resident", lambda: False)
        return resident_growth(call)


def test_resident_growth_is_sampled_where_the_system_does_not_tell_it() -> None:
    assert in_a_process(sampled_growth) == pytest.approx(64 * MB, rel=0.05)


def test_resident_growth_stands_in_where_there_is_no_memray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
    measured = measure_memory(lambda: np.ones(64 * MB, np.uint8), 16 * MB)
    assert measured.workspace_peak_bytes == measured.resident_delta_bytes - 16 * MB


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100)), max_size=20))
def test_peak_without_outputs_is_the_largest_running_total(steps: list[tuple[int, int]]) -> None:
    """Each address is taken when free and released when taken."""
    taken: dict[int, int] = {}
    events, totals = [], [0]
    for address, size in steps:
        released = address in taken
        totals.append(totals[-1] + (-taken.pop(address) if released else size))
        if not released:
            taken[address] = size
        events.append(Event(address, 0 if released else size, released))
    assert workspace_peak(events, 0) == max(totals)
    kept = sum(taken.values())
    assert workspace_peak(events, kept) <= max(totals)
    assert workspace_peak(events, kept) >= max(totals) - kept


def test_replayed_peak_is_memrays_own(tmp_path: Any) -> None:
    from memray import FileReader, Tracker

    def call() -> None:
        blocks = [np.empty(size, np.uint8) for size in (10 * KB, 20 * KB, 40 * KB)]
        blocks[0] = np.empty(5 * KB, np.uint8)
        del blocks[1]

    call()
    with Tracker(tmp_path / "memray.bin"):
        call()
    with FileReader(tmp_path / "memray.bin") as reader:
        peak = reader.metadata.peak_memory
    assert workspace_peak(track(call), 0) == peak == 75 * KB
