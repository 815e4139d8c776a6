"""What a cluster does not measure, and what it says of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from flashbench.errors import ConfigError, ResultsError
from flashbench.studies.progress import Progress
from flashbench.studies.runner import failed, run

pytest.importorskip("distributed")

from helpers.clusters import STUDY, hosts, measured, workers_of

from flashbench.studies.cluster import dispatch, workers
from flashbench.studies.cluster.dispatch import ClusterError
from flashbench.studies.cluster.identity import refusal

JOBS = "jobs: 1\ncores: 1\nmemory: 0\ninterface: lo"


@pytest.mark.grid
def test_an_error_of_a_host_is_the_run_s(two_hosts: Any) -> None:
    with pytest.raises(ClusterError, match=r"N=\d+ on node\d: unknown engine"):
        measured(replace(STUDY, engines=["nonsense"]), two_hosts)


@pytest.mark.grid
def test_an_unfinished_run_of_one_machine_is_not_resumed_on_a_cluster(two_hosts: Any) -> None:
    alone = run(STUDY, command=[])
    with pytest.raises(ResultsError, match="is of one machine, and --cluster measures on others"):
        measured(STUDY, two_hosts, earlier=alone)
    results = measured(STUDY, two_hosts)
    with pytest.raises(ResultsError, match="is of a cluster, and this one is of one machine"):
        run(STUDY, command=[], earlier=results)
    with pytest.raises(ResultsError, match="each_node was False, now it is True"):
        measured(STUDY, two_hosts, each_node=True, earlier=results)


def test_a_worker_without_the_resource_is_refused() -> None:
    refused = pytest.raises(ClusterError, match=r"on node1 is refused: it has no resource .bench.")
    with hosts(["node1"], resources={}) as cluster, refused:
        measured(STUDY, cluster)


@pytest.mark.grid
def test_a_worker_with_another_kernel_is_refused_and_others_measure(
    two_hosts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(own: Any, found: Any) -> str | None:
        return refusal(own, found | {"kernels": "another"} if found["host"] == "node1" else found)

    monkeypatch.setattr(workers, "refusal", changed)
    results = measured(STUDY, two_hosts)
    assert {task.machine.host for task in results.hosts} == {"node2"}
    assert any("on node1 is refused: its kernel hash is another, " in line for line in results.warnings)
    assert results.complete
    assert failed(measured(STUDY, two_hosts, each_node=True))


@pytest.mark.grid
def test_a_refused_worker_does_not_end_a_run_whose_other_worker_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flashbench.studies.cluster import workers

    monkeypatch.setattr(workers, "refusal", lambda _, found: "no" if found["host"] == "node1" else None)
    with hosts(["node1", "node2"]) as cluster:
        killed: list[psutil.Process] = []

        def kill_once(step: Progress) -> None:
            if step.news is not None and "begins on" in step.news and not killed:
                killed.append(workers_of(cluster)[1])
                killed[0].kill()

        results = measured(STUDY, cluster, on_progress=kill_once)
    assert results.complete, results.warnings
    assert {task.machine.host for task in results.hosts} == {"node2"}
    assert sum(row.note is not None for row in results.rows) == 1


@pytest.mark.grid
def test_two_machines_of_one_name_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker's address stands for its machine: on this one they cannot differ."""
    from flashbench.studies.cluster import workers

    ask = workers.Workers._ask

    def ask_machine(self: workers.Workers, address: str) -> None:
        ask(self, address)
        of, found = self._answers.get()
        assert not isinstance(found, BaseException)
        self._answers.put((of, {**found, "machine": of}))

    monkeypatch.setattr(workers.Workers, "_ask", ask_machine)
    with hosts(["localhost", "localhost"]) as cluster:
        results = measured(STUDY, cluster, each_node=True)
    assert [task.machine.host for task in results.hosts] == ["localhost"]
    assert not results.complete
    (warning,) = [line for line in results.warnings if "refused" in line]
    assert "on localhost is refused: tcp://" in warning
    assert "on another machine has this name; set FLASHBENCH_NODE of both" in warning


@pytest.mark.grid
def test_no_worker_and_no_scheduler_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "WAIT_S", 1.0)
    with hosts([]) as cluster, pytest.raises(ClusterError, match="has no worker"):
        measured(STUDY, cluster)
    with pytest.raises(ConfigError, match=r"--cluster tcp://127.0.0.1:1: "):
        measured(STUDY, "tcp://127.0.0.1:1")


@pytest.mark.parametrize("word", ["local:0", "local:two", "node1:8786", "slurm:missing.yaml"])
def test_a_wrong_address_is_named(word: str) -> None:
    with pytest.raises(ConfigError, match="--cluster"):
        measured(STUDY, word)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("jobs: 0", "must have jobs, a number of workers from 1 up, not 0"),
        ("[1", "is not YAML"),
        ("text", "must name settings of SLURMCluster and jobs"),
        ("jobs: true", "must have jobs, a number of workers from 1 up, not True"),
        ("jobs: 1\ncores: 1", "must have memory, which SLURMCluster needs"),
        (f"{JOBS}99", "'lo99' is not a valid network interface"),
        (f"{JOBS}\nscheduler_options: 3", "SLURMCluster says: scheduler_options is a dict, not 3"),
        (f"{JOBS}\nworker_extra_args: --lifetime", "worker_extra_args is a list, not '--lifetime'"),
        (f"{JOBS}\njob_extra_directives: --exclusive", "job_extra_directives is a list, not"),
        (f"{JOBS}\nlog_directory: /dev/null/logs", "/dev/null/logs cannot be made"),
    ],
)
# Dask's Cluster.__del__, of a cluster that was never made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_wrong_file_of_slurm_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        measured(STUDY, f"slurm:{path}")


def test_a_budget_is_of_each_node_alone() -> None:
    with pytest.raises(ConfigError, match="--budget is a time on one machine"):
        measured(replace(STUDY, budget_s=3.0), "local:1")
