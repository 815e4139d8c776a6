"""What workers hold: keys and values that exceed a worker's limit, in the small version of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dask.array")
pytest.importorskip("distributed")

from flashbench.errors import AttentionError
from flashbench.integrations.dask import worker_memory
from flashbench.problem import AttentionProblem

MIB = 2**20


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
        import long_sequence

        yield long_sequence


@pytest.mark.grid
def test_keys_and_values_that_exceed_a_workers_limit(benchmark: Any) -> None:
    problem = AttentionProblem.of(
        256, seqlen_k=1536, num_heads=512, head_dim=64, dtype="float64", causal=True
    )
    limit = 720 * MIB
    assert problem.kv_bytes > limit
    idle, passes, error = benchmark.measure(problem, workers=2, limit=limit, query_chunk=32, key_chunk=32)
    assert error < 1e-12
    for took in passes.values():
        assert max(took.peaks) < limit
        assert idle < max(took.peaks) < 1.1 * took.predicted
        assert took.received_twice == 0
        # Two workers: each chunk goes to the other one. Dask adds some bytes of its own to each.
        assert 0 < sum(took.received) < 1.001 * problem.kv_bytes


def test_memory_does_not_grow_with_the_number_of_keys_beyond_those_in_flight() -> None:
    chunks = {"query_chunk": 64, "key_chunk": 32, "workers": 2}
    for direction in ("fwd", "bwd"):
        found = [
            worker_memory(AttentionProblem.of(512, seqlen_k=keys), direction, **chunks)
            for keys in (512, 4096)
        ]
        assert found[0] == found[1]


@pytest.mark.parametrize("in_flight", [0, -1, 1.5, True])
def test_in_flight_is_a_count(in_flight: Any) -> None:
    problem = AttentionProblem.of(64)
    with pytest.raises(AttentionError, match=r"in_flight must be a whole number from 1 up, or None, not"):
        worker_memory(problem, "fwd", query_chunk=8, key_chunk=8, workers=1, in_flight=in_flight)
