"""`--cluster` with jobs of a real SLURM, and with TLS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cluster_page import block
from helpers.slurm import Slurm, needs_slurm, slurm
from helpers.tls import needs_openssl, tls_settings

from flashbench.errors import ConfigError
from flashbench.results.hosts import each_host
from flashbench.results.record import Results
from flashbench.studies.progress import Progress
from flashbench.studies.study import Study

pytest.importorskip("dask_jobqueue")

from distributed import Security
from helpers.clusters import STUDY, hosts

from flashbench.studies.cluster import dispatch, run_on_cluster
from flashbench.studies.cluster.dispatch import ClusterError


def settings_file(nodes: Slurm, directory: Path, **others: Any) -> Path:
    """The page's file, on loopback and in the directories of the test."""
    settings = yaml.safe_load(block("yaml", "job_extra_directives"))
    settings |= {"jobs": len(nodes.nodes), "interface": "lo"}
    settings |= {"local_directory": os.fspath(directory), "log_directory": os.fspath(directory)}
    path = directory / "jobs.yaml"
    path.write_text(yaml.safe_dump(settings | others))
    return path


@pytest.fixture(scope="module")
def nodes() -> Iterator[Slurm]:
    with slurm(nodes=2) as made, made.used():
        yield made


def measured(path: Path, **options: Any) -> Results:
    return run_on_cluster(STUDY, cluster=f"slurm:{path}", each_node=True, command=["flashbench"], **options)


@needs_slurm
def test_each_node_of_slurm_measures_the_study(nodes: Slurm, tmp_path: Path) -> None:
    seen: list[Progress] = []
    results = measured(settings_file(nodes, tmp_path), on_progress=seen.append)
    assert results.complete, results.warnings
    assert [host.machine.host for host in each_host(results)] == ["node1", "node2"]
    for host in each_host(results):
        assert [row.problem.seqlen_q for row in host.measurements] == [16, 24]
    # Both nodes are this machine, so they take turns.
    assert max(sum(host.part is not None for host in step.hosts) for step in seen) == 1
    assert any("waiting for 2 jobs of SLURM: " in step.label for step in seen)


@needs_slurm
@pytest.mark.grid
# Dask's Cluster.__del__, of a cluster that was never made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_slurm_refuses_is_an_error_before_anything_waits(nodes: Slurm, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"SLURM refuses such a job: .*invalid partition specified: none-such"
    ):
        measured(settings_file(nodes, tmp_path, queue="none-such"))
    with pytest.raises(ConfigError, match=r"SLURMCluster says: .*unexpected keyword argument 'nonsense'"):
        measured(settings_file(nodes, tmp_path, nonsense=3))


@needs_slurm
@pytest.mark.grid
def test_jobs_that_end_at_once_are_not_waited_for(
    nodes: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "WAIT_S", 2.0)
    with pytest.raises(ClusterError, match=r"jobs.yaml has no worker"):
        measured(settings_file(nodes, tmp_path, python="/bin/false"))


@needs_openssl
def test_tls_settings_of_dask_are_used(tmp_path: Path) -> None:
    with tls_settings(tmp_path), hosts(["node1"], security=Security()) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        study = Study(engines=["numpy"], seq_lens=[16], rounds=1, repeats=1, threads=1, memory=False)
        results = run_on_cluster(
            study, cluster=cluster.scheduler_address, each_node=False, command=["flashbench"]
        )
    assert results.complete
