"""Studies on clusters of Dask, whose workers are processes of this machine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from flashbench.errors import ConfigError, ResultsError
from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.studies.infer import InferStudy
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted, failed, run
from flashbench.studies.study import Study

pytest.importorskip("distributed")

from dask.config import set as dask_settings
from helpers.clusters import hosts

from flashbench.studies.cluster import dispatch, run_on_cluster
from flashbench.studies.cluster.dispatch import ClusterError
from flashbench.studies.cluster.parts import AnyStudy
from flashbench.studies.cluster.task import own_environment

# Its processes need no Numba but for the limits of the machine.
STUDY = Study(engines=["numpy"], seq_lens=[16, 24], rounds=1, repeats=1, threads=1, memory=False)


JOBS = "jobs: 1\ncores: 1\nmemory: 0\ninterface: lo"


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[Any]:
    with hosts(["node1", "node2"]) as cluster:
        yield cluster


def measured(study: AnyStudy, cluster: Any, *, each_node: bool = False, **options: Any) -> Results:
    """cluster: a cluster of Dask, or a word of --cluster."""
    address = cluster if isinstance(cluster, str) else cluster.scheduler_address
    return run_on_cluster(study, cluster=address, each_node=each_node, command=["flashbench"], **options)


def lengths(results: Results) -> list[int]:
    return sorted(row.problem.seqlen_q for task in results.hosts for row in task.measurements)


def test_lengths_are_shared_among_hosts(two_hosts: Any) -> None:
    seen: list[Progress] = []
    results = measured(STUDY, two_hosts, on_progress=seen.append)
    assert results.complete
    assert not failed(results)
    assert lengths(results) == [16, 24]
    assert {one.machine.host for one in each_host(results)} <= {"node1", "node2"}
    for task in results.hosts:
        assert task.machine.cpu
        assert task.machine.libraries
        assert all(row.time is not None and row.accuracy is not None for row in task.measurements)
        # The nanny sets one thread; the study asked for one too, so look at what it did not ask for.
        assert set(task.processes) == {"numpy"}
    news = [step.news for step in seen if step.news]
    assert sum("begins on" in line for line in news) == 2
    assert sum("is done on" in line for line in news) == 2
    assert seen[-1].done == seen[-1].total == 2


@pytest.mark.grid
def test_each_node_measures_everything(two_hosts: Any) -> None:
    results = measured(STUDY, two_hosts, each_node=True)
    assert results.complete
    first, second = each_host(results)
    assert [first.machine.host, second.machine.host] == ["node1", "node2"]
    for host in (first, second):
        assert [row.problem.seqlen_q for row in host.measurements] == [16, 24]


@pytest.mark.grid
def test_one_machine_measures_one_thing_at_a_time(two_hosts: Any) -> None:
    """Both workers run on this machine, so they take turns, whatever they call themselves."""
    busy: list[int] = []
    measured(
        STUDY,
        two_hosts,
        on_progress=lambda step: busy.append(sum(host.part is not None for host in step.hosts)),
    )
    assert max(busy) == 1


@pytest.mark.grid
def test_threads_are_the_study_s_and_not_the_nanny_s() -> None:
    study = replace(STUDY, seq_lens=[16], threads=None)
    alone = run(study, command=[])
    with hosts(["node1"], environment={"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}) as cluster:
        (host,) = each_host(measured(study, cluster))
    assert host.measurements[0].threads == alone.measurements[0].threads
    assert host.processes["numpy"].environment == alone.processes["numpy"].environment


def test_the_nanny_s_settings_do_not_reach_a_part_but_the_name_of_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else two hosts of one image would have one name, and the results of one would replace the other's."""
    given = {"MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "FLASHBENCH_NODE": "node1"}
    for name, value in (given | {"NUMBA_NUM_THREADS": "1", "PLAIN": "1"}).items():
        monkeypatch.setenv(name, value)
    with dask_settings({"distributed.nanny.environ": given}):
        found = own_environment()
    assert {name: found.get(name) for name in [*given, "NUMBA_NUM_THREADS", "PLAIN"]} == {
        "MALLOC_TRIM_THRESHOLD_": None,
        "OMP_NUM_THREADS": None,
        "NUMBA_NUM_THREADS": None,
        "FLASHBENCH_NODE": "node1",
        "PLAIN": "1",
    }


@pytest.mark.grid
def test_a_part_that_cannot_be_measured_is_named_and_others_are_measured(two_hosts: Any) -> None:
    study = replace(STUDY, engines=["numpy"], seq_lens=[16, 8192], memory_budget_bytes=200_000_000)
    results = measured(study, two_hosts)
    assert lengths(results) == [16]
    assert results.warnings[0].startswith("N=8192 on node")
    assert "needs" in results.warnings[0]
    with pytest.raises(NothingToMeasureError, match="N=8192 on node"):
        measured(replace(study, seq_lens=[8192]), two_hosts)


@pytest.mark.grid
def test_an_error_of_a_host_is_the_run_s(two_hosts: Any) -> None:
    with pytest.raises(ClusterError, match=r"N=\d+ on node\d: unknown engine"):
        measured(replace(STUDY, engines=["nonsense"]), two_hosts)


def test_ctrl_c_leaves_what_is_known_and_ends_what_runs(two_hosts: Any) -> None:
    kept: list[Results] = []

    def stop(step: Progress) -> None:
        if step.news is not None and "is done on" in step.news:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        measured(STUDY, two_hosts, on_progress=stop, on_results=kept.append)
    results = stopped.value.results
    assert not results.complete
    assert lengths(results) == [24]
    resumed = measured(STUDY, two_hosts, earlier=results)
    assert resumed.complete
    assert lengths(resumed) == [16, 24]
    assert results.hosts[0] in resumed.hosts


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
    from flashbench.studies.cluster import workers

    own = workers.identify()
    monkeypatch.setattr(workers, "refusal", lambda _, found: "no" if found["host"] == "node1" else None)
    results = measured(STUDY, two_hosts)
    assert {task.machine.host for task in results.hosts} == {"node2"}
    assert any("on node1 is refused: no" in line for line in results.warnings)
    assert results.complete
    assert failed(measured(STUDY, two_hosts, each_node=True))
    monkeypatch.setattr(workers, "identify", lambda: own | {"kernels": "another"})


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
def test_lengths_do_not_wait_for_workers_that_nobody_needs(
    two_hosts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with jobs of SLURM that wait in the queue."""
    monkeypatch.setattr(dispatch.Dispatch, "_to_come", lambda _: "a job of SLURM: PENDING (Resources)")
    assert measured(STUDY, two_hosts).complete


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


def workers_of(cluster: Any) -> list[psutil.Process]:
    """The processes of the workers, not of their nannies' helpers."""
    return [psutil.Process(nanny.pid) for nanny in cluster.workers.values() if nanny.pid is not None]


@pytest.mark.parametrize("runs", [1, pytest.param(20, marks=pytest.mark.grid)])
def test_killed_workers_lose_and_double_nothing(runs: int) -> None:
    chance = random.Random(0)
    again = 0
    with hosts(["node1", "node2"]) as cluster:
        for _ in range(runs):

            def kill(after_s: float) -> None:
                time.sleep(after_s)
                chance.choice(workers_of(cluster)).send_signal(signal.SIGKILL)

            killer = threading.Thread(target=kill, args=(chance.uniform(0.5, 5.0),))
            killer.start()
            results = measured(STUDY, cluster)
            killer.join()
            assert results.complete, results.warnings
            assert lengths(results) == [16, 24]
            for row in results.rows:
                assert row.time is not None
                assert len(row.time.samples_ns) == STUDY.rounds
                again += row.note is not None
    assert runs == 1 or again > 0


@pytest.mark.grid
def test_a_worker_that_does_not_answer_is_waited_for_or_replaced(two_hosts: Any) -> None:
    """A stopped worker's part is not measured twice: it goes on when the worker does."""
    stopped: list[psutil.Process] = []

    def stop_for_a_while(step: Progress) -> None:
        if step.news is not None and "begins on" in step.news and not stopped:
            host = step.news.rpartition(" ")[2]
            stopped.append(workers_of(two_hosts)[int(host[-1]) - 1])
            stopped[0].suspend()
            threading.Timer(3.0, stopped[0].resume).start()

    results = measured(STUDY, two_hosts, on_progress=stop_for_a_while)
    assert stopped
    assert results.complete
    assert lengths(results) == [16, 24]


@pytest.mark.grid
def test_a_lost_scheduler_keeps_the_file_and_a_new_one_goes_on() -> None:
    kept: list[Results] = []
    with hosts(["node1"]) as cluster:

        def end_it(step: Progress) -> None:
            if step.news is not None and "is done on" in step.news:
                cluster.sync(cluster.scheduler.close)

        with pytest.raises(ClusterError, match="does not answer any more"):
            measured(STUDY, cluster, on_progress=end_it, on_results=kept.append)
    assert lengths(kept[-1]) == [24]
    with hosts(["node1"]) as cluster:
        results = measured(STUDY, cluster, earlier=kept[-1])
    assert results.complete
    assert lengths(results) == [16, 24]


@pytest.mark.grid
def test_nothing_is_left_running(two_hosts: Any) -> None:
    """A part's process and its workers end with the run that was interrupted."""
    before = set(psutil.Process(os.getpid()).children(recursive=True))

    def stop(step: Progress) -> None:
        if any(host.total for host in step.hosts):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        measured(replace(STUDY, rounds=50), two_hosts, on_progress=stop)
    end = time.monotonic() + 20
    while (
        left := set(psutil.Process(os.getpid()).children(recursive=True)) - before
    ) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left


def dask(*words: str) -> subprocess.Popen[bytes]:
    """A scheduler or a worker by Dask's own command, on loopback."""
    on_loopback = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
    return subprocess.Popen([sys.executable, "-m", "dask", *words, *on_loopback], stderr=subprocess.DEVNULL)


@pytest.mark.grid
def test_nothing_is_left_running_without_a_scheduler(tmp_path: Path) -> None:
    """Dask's worker would wait for its task; a new cluster on its host would then measure beside it."""
    file = tmp_path / "scheduler.json"
    started = [dask("scheduler", "--port", "0", "--scheduler-file", os.fspath(file))]
    resources = ("--nthreads", "1", "--resources", "bench=1", "--local-directory", os.fspath(tmp_path))
    started.append(dask("worker", "--scheduler-file", os.fspath(file), *resources))
    measuring: list[psutil.Process] = []

    def kill_the_scheduler(step: Progress) -> None:
        if any(host.total for host in step.hosts) and not measuring:
            of_worker = psutil.Process(started[1].pid).children(recursive=True)
            measuring.extend(one for one in of_worker if "host_process" in " ".join(one.cmdline()))
            started[0].kill()

    try:
        while not file.exists():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with pytest.raises(ClusterError, match="does not answer any more"):
            measured(replace(STUDY, rounds=200), address, on_progress=kill_the_scheduler)
        assert measuring
        assert psutil.wait_procs(measuring, timeout=10)[1] == []
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


@pytest.mark.grid
def test_whole_models_from_the_command_s_directory(
    two_hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"} | sizes | heads))
    monkeypatch.chdir(tmp_path)
    study = InferStudy(
        models=["first", "second"],
        attentions=["sdpa", "flash"],
        prompt=[4],
        generate=[],
        rounds=1,
        memory=False,
    )
    results = measured(study, two_hosts)
    assert results.complete, results.warnings
    rows = [row for task in results.hosts for row in task.inference]
    assert sorted((row.model, row.attention, row.status) for row in rows) == [
        (model, attention, "ok") for model in ("first", "second") for attention in ("flash", "sdpa")
    ]
