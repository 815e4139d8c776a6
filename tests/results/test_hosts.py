"""A file of a cluster read host by host."""

from __future__ import annotations

from helpers.fake_results import make_measurement, make_results
from msgspec.structs import replace

from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.results.store import encode, load


def task(host: str, seqlen: int, peak: float, *, complete: bool = True) -> Results:
    results = make_results([make_measurement("flash", seqlen)])
    machine = replace(
        results.machine, host=host, peak_gflops={"float32": peak, f"only {seqlen}": 1.0}, peak_threads=2
    )
    config = {**results.config, "seq_lens": [seqlen], "threads": 2}
    return replace(
        results, machine=machine, config=config, complete=complete, warnings=["hot", f"N={seqlen}"]
    )


def whole(*tasks: Results) -> Results:
    config = {"seq_lens": [16, 32, 64], "threads": None, "each_node": False}
    return replace(make_results([]), config=config, hosts=list(tasks))


def test_the_tasks_of_a_host_become_one_file_with_the_settings_of_the_study() -> None:
    results = whole(task("a", 16, 80.0), task("b", 32, 50.0), task("a", 64, 100.0, complete=False))
    first, second = each_host(results)
    assert (first.machine.host, second.machine.host) == ("a", "b")
    assert [row.problem.seqlen_q for row in first.measurements] == [16, 64]
    assert first.config == {"seq_lens": [16, 32, 64], "threads": 2, "each_node": False}
    assert first.machine.peak_gflops == {"float32": 100.0, "only 16": 1.0, "only 64": 1.0}
    assert first.warnings == ["hot", "N=16", "N=64"]
    assert not first.complete
    assert second.complete
    assert len(results.rows) == 3


def test_a_file_of_one_machine_is_its_own_host() -> None:
    results = make_results([make_measurement("flash", 16)])
    assert each_host(results) == [results]
    assert not results.of_cluster


def test_it_comes_back_from_disk(tmp_path) -> None:
    results = whole(task("a", 16, 80.0), task("b", 32, 50.0))
    path = tmp_path / "nodes.json"
    path.write_bytes(encode(results))
    assert load(path) == results
    assert load(path).of_cluster
