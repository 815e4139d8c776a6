"""`--cluster` with jobs of a real SLURM, and with TLS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from helpers.cluster_page import block
from helpers.slurm import Slurm, needs_slurm, slurm
from helpers.tls import needs_openssl, tls_settings

from flashbench.studies.progress import Progress
from flashbench.studies.study import Study

pytest.importorskip("dask_jobqueue")

from distributed import Security
from helpers.clusters import hosts

from flashbench.studies.cluster import run_on_cluster

STUDY = Study(engines=["numpy"], seq_lens=[16, 24], rounds=1, repeats=1, threads=1, memory=False)


def settings_file(nodes: Slurm, directory: Path) -> Path:
    """The page's file, on loopback and in the directories of the test."""
    settings = yaml.safe_load(block("yaml", "job_extra_directives"))
    settings |= {"jobs": len(nodes.nodes), "interface": "lo"}
    settings |= {"local_directory": os.fspath(directory), "log_directory": os.fspath(directory)}
    path = directory / "jobs.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@needs_slurm
def test_each_node_of_slurm_measures_the_study(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with slurm(nodes=2) as nodes, nodes.used():
        results = run_on_cluster(
            STUDY,
            cluster=f"slurm:{settings_file(nodes, tmp_path)}",
            each_node=True,
            command=["flashbench"],
            on_progress=seen.append,
        )
    assert results.complete, results.warnings
    assert [host.machine.host for host in results.each_host] == ["node1", "node2"]
    for host in results.each_host:
        assert [row.problem.seqlen_q for row in host.measurements] == [16, 24]
    # Both nodes are this machine, so they take turns.
    assert max(sum(host.part is not None for host in step.hosts) for step in seen) == 1


@needs_openssl
def test_tls_settings_of_dask_are_used(tmp_path: Path) -> None:
    with tls_settings(tmp_path), hosts(["node1"], security=Security()) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        study = Study(engines=["numpy"], seq_lens=[16], rounds=1, repeats=1, threads=1, memory=False)
        results = run_on_cluster(
            study, cluster=cluster.scheduler_address, each_node=False, command=["flashbench"]
        )
    assert results.complete
