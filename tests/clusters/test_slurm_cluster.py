"""SLURMCluster with the settings of the page, on a real SLURM of two nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from helpers.cluster_page import block
from helpers.ports import hosts_listened_on
from helpers.slurm import Slurm, needs_slurm, slurm
from helpers.tls import needs_openssl, tls_settings

pytest.importorskip("dask_jobqueue")

from dask_jobqueue import SLURMCluster
from distributed import Client

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def nodes() -> Iterator[Slurm]:
    with slurm(nodes=2) as made, made.used():
        yield made


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """The page's file without `jobs`, on loopback and in the directories of the test."""
    read: dict[str, Any] = yaml.safe_load(block("yaml", "job_extra_directives"))
    assert read.pop("jobs") > 0
    read["interface"] = "lo"
    read["local_directory"] = read["log_directory"] = os.fspath(tmp_path)
    return read


def wait_until_no_job_is_left(nodes: Slurm, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while nodes.jobs():
        assert time.monotonic() < deadline, nodes.run("squeue")
        time.sleep(0.1)


def names_of_nodes(client: Client) -> list[str]:
    return sorted(client.run(os.getenv, "SLURMD_NODENAME").values())


def test_each_job_is_a_worker_on_a_node_of_its_own(nodes: Slurm, settings: dict[str, Any]) -> None:
    with SLURMCluster(**settings) as cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        assert names_of_nodes(client) == ["node1", "node2"]
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            assert (worker["resources"], worker["nthreads"], worker["memory_limit"]) == ({"bench": 1}, 1, 0)
        assert client.submit(os.getpid, resources={"bench": 1}).result(timeout=30) != os.getpid()
        assert hosts_listened_on([psutil.Process(), *nodes.processes()]) == {"127.0.0.1"}
        assert len(nodes.jobs()) == 2
    wait_until_no_job_is_left(nodes, 20)


@pytest.mark.grid
def test_without_exclusive_a_node_takes_two_jobs(nodes: Slurm, settings: dict[str, Any]) -> None:
    with SLURMCluster(**settings | {"job_extra_directives": []}) as cluster, Client(cluster) as client:
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        assert names_of_nodes(client) == ["node1", "node1"]
    wait_until_no_job_is_left(nodes, 20)


@pytest.mark.grid
def test_more_jobs_than_nodes_wait(nodes: Slurm, settings: dict[str, Any]) -> None:
    with SLURMCluster(**settings) as cluster, Client(cluster) as client:
        cluster.scale(jobs=3)
        client.wait_for_workers(2, timeout=60)
        assert sorted(nodes.run("squeue", "-h", "-o", "%t %R").splitlines()) == [
            "PD (Resources)",
            "R node1",
            "R node2",
        ]
    wait_until_no_job_is_left(nodes, 20)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"queue": "none-such"}, "invalid partition specified: none-such"),
        ({"job_cpu": 64}, "Requested node configuration is not available"),
    ],
    ids=["queue", "cpus"],
)
def test_slurm_says_before_a_job_is_submitted_why_it_could_not_run(
    nodes: Slurm, settings: dict[str, Any], wrong: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    script = tmp_path / "job.sh"
    for given, refused in ((settings, False), (settings | wrong, True)):
        with SLURMCluster(**given) as cluster:
            script.write_text(cluster.job_script())
        tried = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True)
        assert (tried.returncode != 0, reason in tried.stderr) == (refused, refused), tried.stderr
    assert nodes.jobs() == []


@pytest.mark.grid
@needs_openssl
def test_jobs_with_tls(nodes: Slurm, settings: dict[str, Any], tmp_path: Path) -> None:
    with (
        tls_settings(tmp_path),
        SLURMCluster(**settings, protocol="tls://") as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(jobs=2)
        client.wait_for_workers(2, timeout=60)
        assert names_of_nodes(client) == ["node1", "node2"]
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert {address.partition("/")[0] for address in workers} == {"tls:"}
    wait_until_no_job_is_left(nodes, 20)


@pytest.mark.grid
def test_jobs_that_run_and_that_wait_end_when_the_scheduler_is_killed(
    nodes: Slurm, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["death_timeout"] = 5
    program = f"""
        import time
        from dask_jobqueue import SLURMCluster
        from distributed import Client
        if __name__ == "__main__":
            with SLURMCluster(**{settings!r}) as cluster, Client(cluster) as client:
                cluster.scale(jobs=3)
                client.wait_for_workers(2, timeout=60)
                print("ready", flush=True)
                time.sleep(600)
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert len(nodes.jobs()) == 3
        finally:
            process.send_signal(signal.SIGKILL)
    wait_until_no_job_is_left(nodes, 60)


def start_a_long_job(made: Slurm) -> None:
    made.run("sbatch", "--output=/dev/null", "--wrap", "sleep 600")
    while "sleep" not in names_of_processes(made):
        time.sleep(0.05)
    assert names_of_processes(made) >= {"munged", "slurmctld", "slurmd", "slurmstepd"}


def names_of_processes(made: Slurm) -> set[str]:
    return {process.name() for process in made.processes()}


def test_a_slurm_ends_with_its_jobs_after_a_failure_too() -> None:
    started: list[Slurm] = []

    def fail() -> None:
        with slurm(nodes=1) as made:
            start_a_long_job(made)
            started.append(made)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert started[0].processes() == []
    assert not started[0].directory.exists()


@pytest.mark.grid
def test_jobs_end_even_if_the_daemons_are_gone() -> None:
    of_the_job: list[psutil.Process] = []

    def kill_daemons() -> None:
        with slurm(nodes=1) as made:
            start_a_long_job(made)
            for process in made.processes():
                if process.name() in ("slurmctld", "slurmd"):
                    process.kill()
                else:
                    of_the_job.append(process)

    with pytest.raises(AssertionError, match="Unable to contact slurm controller"):
        kill_daemons()
    assert psutil.wait_procs(of_the_job, timeout=10)[1] == []
