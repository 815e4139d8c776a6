"""Rates from a file of measurements, and from two timed tasks."""

from __future__ import annotations

import pytest
from helpers.fake_results import MACHINE, make_measurement, make_results
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flashbench.errors import EngineError, ResultsError
from flashbench.problem import AttentionProblem
from flashbench.results.record import Measurement
from flashbench.studies.plan import measure
from flashbench.studies.plan.measure import Timed, measure_rates, solved
from flashbench.studies.plan.plan import Chunks
from flashbench.studies.plan.rates import USUAL_MERGE_NS, rates_of_file

PROBLEM = AttentionProblem.of(2**20, num_heads=32, dtype="float32")


def row(seqlen: int, **more: object) -> Measurement:
    return make_measurement("flash", seqlen, dtype="float32", **more)


def gflops(measurement: Measurement) -> float:
    assert measurement.rates is not None
    return measurement.rates.gflops


def test_the_longest_length_up_to_the_chunk_counts() -> None:
    rows = [row(1024), row(4096), row(8192), row(4096, direction="bwd")]
    rates = rates_of_file(make_results(rows), "host.json", PROBLEM, ["fwd", "bwd"], 5000)
    assert rates.of("fwd").gflops == gflops(rows[1])
    assert rates.of("fwd").merge_ns == USUAL_MERGE_NS["fwd"]
    assert (rates.of("bwd").gflops, rates.of("bwd").seqlen) == (gflops(rows[3]), 4096)
    assert rates.source == "host.json (Example CPU 9000 @ 3.00GHz)"


def test_chunks_shorter_than_all_lengths_take_the_shortest() -> None:
    rows = [row(4096), row(1024)]
    assert rates_of_file(make_results(rows), "f", PROBLEM, ["fwd"], 100).of("fwd").seqlen == 1024


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_computed_at_the_rate_of_float32(dtype: str) -> None:
    problem = replace(PROBLEM, dtype=dtype)
    assert rates_of_file(make_results([row(1024)]), "f", problem, ["fwd"], 4096).forward is not None


OTHERS = {
    "another engine": make_measurement("standard", 1024, dtype="float32"),
    "another dtype": make_measurement("flash", 1024),
    "another direction": row(1024, direction="bwd"),
    "another head_dim": row(1024, head_dim=128),
    "failed": row(1024, status="crashed", reason="so it was asked"),
    "a window": row(1024, window=(8, 8)),
    "a decoding step": make_measurement("flash", 1, seqlen_k=1024, dtype="float32"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_rows_of_another_kind_do_not_count(other: Measurement) -> None:
    with pytest.raises(ResultsError) as error:
        rates_of_file(make_results([other]), "host.json", PROBLEM, ["fwd"], 4096)
    assert str(error.value) == (
        "host.json has no time of engine flash with float32, head_dim 64, --direction fwd"
    )
    assert error.value.hint == (
        "flashbench profile -e flash --dtype float32 --head-dim 64 --direction fwd --seq-lens 4k --heads 32 "
        "--save host.json"
    )


def test_of_a_clusters_hosts_the_slowest_counts() -> None:
    alike = [make_results([row(1024, slower=slower)]) for slower in (1.0, 1.5, 1.2)]
    hosts = [replace(one, machine=replace(one.machine, host=f"node{n}")) for n, one in enumerate(alike)]
    results = replace(make_results([]), hosts=hosts)
    found = rates_of_file(results, "f", PROBLEM, ["fwd"], 4096)
    assert found.of("fwd").gflops == gflops(hosts[1].measurements[0])
    assert MACHINE.cpu in found.source


@given(
    gflops=st.floats(1, 1e4),
    merge_ns=st.floats(0.1, 1e3),
    keys=st.integers(128, 10**5),
)
def test_two_times_give_back_the_two_rates(gflops: float, merge_ns: float, keys: int) -> None:
    def timed(keys: int) -> Timed:
        flops, merged = 4 * 64 * 1000 * keys, 64 * 1000
        return Timed(flops, merged, flops / gflops / 1e9 + merged * merge_ns / 1e9)

    found = solved(timed(keys), timed(64), seqlen=keys, threads=1)
    assert found.gflops == pytest.approx(gflops, rel=1e-6)
    assert found.merge_ns == pytest.approx(merge_ns, rel=1e-6)


def test_noise_leaves_the_time_of_the_whole_pair_to_the_kernel() -> None:
    found = solved(Timed(10**9, 10**6, 1.0), Timed(10**6, 10**6, 1.5), seqlen=1, threads=1)
    assert (found.gflops, found.merge_ns) == (1.0, 0.0)


def test_a_pair_of_chunks_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask")
    monkeypatch.setattr(measure, "BURST_NS", 0)
    problem = AttentionProblem.of(1024, num_heads=4, num_kv_heads=2, head_dim=8, dtype="float32")
    steps = []
    found = measure_rates(problem, Chunks(128, 64), ["fwd", "bwd"], threads=1, on_progress=steps.append)
    for direction in ("fwd", "bwd"):
        assert found.of(direction).gflops > 0
        assert found.of(direction).threads == 1
    assert "128 x 64 tokens" in found.source
    assert [step.label for step in steps] == ["a pair of chunks, fwd", "a pair of chunks, bwd", "done"]


def test_a_process_that_fails_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask")
    monkeypatch.setattr(measure, "FACTORY", "flashbench.studies.plan.pair:no_such_thing")
    with pytest.raises(EngineError, match="a pair of chunks could not be measured: AttributeError") as error:
        measure_rates(AttentionProblem.of(64), Chunks(32, 32), ["fwd"], threads=1)
    assert error.value.hint == "--rates FILE.json takes the rates of a file of flashbench profile"
