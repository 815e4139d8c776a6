"""Read bandwidth is bytes read per time, from more memory than the caches hold."""

from __future__ import annotations

import pytest

from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.studies import bandwidth
from flashbench.studies.bandwidth import (
    LEAST_BYTES,
    MOST_BYTES,
    BandwidthWorkload,
    buffer_bytes,
    build,
    measure_bandwidth,
    read_bandwidth_gbps,
)

MIB = 1024**2
GIB = 1024**3


@pytest.mark.parametrize("threads", [1, 2])
def test_workload_reads_the_bytes_that_it_counts(threads: int) -> None:
    workload = build(MIB + 5, threads)
    assert workload.describe() == {"bytes": MIB}
    assert workload.check() == {"complete": False}  # nothing was read yet
    workload.call()
    assert workload.check() == {"complete": True}


def test_a_call_that_read_less_is_found_out() -> None:
    workload = BandwidthWorkload(lambda: 127.0, 1024)
    workload.call()
    assert workload.check() == {"complete": False}


@pytest.mark.parametrize(
    ("cache", "available", "size"),
    [
        (32 * MIB, 64 * GIB, LEAST_BYTES),
        (256 * MIB, 64 * GIB, 512 * MIB),
        (1152 * MIB, 64 * GIB, MOST_BYTES),
        (0, 64 * GIB, LEAST_BYTES),
        (256 * MIB, 2 * GIB, 256 * MIB),  # an eighth of what is free
        (256 * MIB, GIB, 128 * MIB),
    ],
)
def test_buffer_is_larger_than_the_caches(
    cache: int, available: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth, "cache_bytes", lambda: cache)
    monkeypatch.setattr(bandwidth, "available_memory_bytes", lambda: available)
    assert buffer_bytes() == size


def test_bandwidth_is_the_median_of_the_best_calls() -> None:
    assert read_bandwidth_gbps(1000, [[10, 50], [90, 5], [20, 21]]) == 100.0
    assert read_bandwidth_gbps(1000, []) is None


def test_worker_measures_it_and_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "buffer_bytes", lambda: 8 * MIB)
    monkeypatch.setattr(bandwidth, "BURST_NS", 1_000_000)
    with Worker(1, timeout_s=120) as worker:
        found = measure_bandwidth(worker, 1, bursts=2)
        assert found is not None
        assert 0.1 < found < 10_000
        with pytest.raises(WorkerFailure):
            worker.check("bandwidth")
