"""The kernel that reads memory reads all of it, each thread its own part."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from flashbench.codegen.isa import ISA
from flashbench.kernels.probes import bandwidth
from flashbench.kernels.probes.bandwidth import SharedMemory, sum_of
from flashbench.threads import pool as threads

LANES = ISA.lanes(8)
GROUP = LANES * bandwidth._ACCUMULATORS


@pytest.mark.parametrize(
    "count", [0, 1, 2, 3, LANES - 1, LANES, LANES + 1, GROUP - 1, GROUP, GROUP + 1, 5 * GROUP + 7, 100_003]
)
@pytest.mark.parametrize("offset", [0, 1])
def test_sum_is_numpys(count: int, offset: int) -> None:
    # The sum of whole numbers is exact in any order.
    whole = np.random.default_rng(count).integers(-1000, 1000, count + 2).astype(np.float64)
    x = whole[offset : offset + count]
    assert sum_of(x) == x.sum()


def test_sum_reads_nothing_beyond_its_end() -> None:
    x = np.full(3 * GROUP + 2, np.nan)
    x[1:-1] = 1.0
    assert sum_of(x[1:-1]) == x.size - 2


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("size", [4096, 1_000_003])
def test_everything_is_read_once(size: int, num_threads: int) -> None:
    memory = SharedMemory(size, num_threads)
    assert memory.size_bytes == 8 * num_threads * (size // (8 * num_threads))
    assert size - 8 * num_threads < memory.size_bytes <= size
    for _ in range(3):
        assert memory.read() == memory.size_bytes / 8


def test_part_of_a_thread_that_is_gone_is_read_by_another() -> None:
    found: list[SharedMemory] = []
    # One part belongs to a thread that has ended, one to a pool thread.
    maker = threading.Thread(target=lambda: found.append(SharedMemory(64 * 1024, 2)))
    maker.start()
    maker.join()
    assert found[0].read() == found[0].size_bytes / 8


def test_each_part_is_read_by_the_thread_that_touched_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a worker, the pool has only the requested threads: more threads would take turns.
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    memory = SharedMemory(64 * 1024, 2)
    assert sorted(memory._owned.values()) == [0, 1]
    both_read = threading.Barrier(2, timeout=20)
    readers: dict[int, int] = {}
    parts = {part.ctypes.data: number for number, part in enumerate(memory._parts)}

    def watched(x: np.ndarray) -> float:
        readers[threading.get_ident()] = parts[x.ctypes.data]
        both_read.wait()  # so that neither takes the other's part as well
        return float(x.sum())

    monkeypatch.setattr(bandwidth, "sum_of", watched)
    memory.read()
    assert readers == memory._owned
