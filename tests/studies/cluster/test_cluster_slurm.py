"""Which jobs of SLURM are still to start, as dask-jobqueue and a made-up squeue tell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flashbench.studies.cluster import slurm


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two jobs that are about to be submitted; `says` is what squeue says next."""
    made = SimpleNamespace(workers={}, worker_spec={0: {}, 1: {}}, says="")

    def squeue(words: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        if made.says is None:
            raise subprocess.TimeoutExpired(words, 30)
        return subprocess.CompletedProcess(words, 0, stdout=made.says)

    monkeypatch.setattr(slurm.subprocess, "run", squeue)
    monkeypatch.setattr(slurm, "_ASK_AGAIN_S", 0.0)
    return made


def job(number: str | None) -> SimpleNamespace:
    return SimpleNamespace(job_id=number)


def asked(cluster: SimpleNamespace) -> Callable[[int], str | None]:
    queue = slurm._Queue(cluster)
    return lambda present: queue(present, present)


def test_jobs_are_waited_for_until_each_has_a_worker(cluster: SimpleNamespace) -> None:
    coming = asked(cluster)
    assert coming(0) == "2 jobs of SLURM: SUBMITTED"
    cluster.workers, cluster.says = {0: job("7"), 1: job("8")}, "RUNNING (None)\nPENDING (Resources)\n"
    assert coming(1) == "1 job of SLURM: PENDING (Resources)"
    assert coming(2) is None


def test_a_job_whose_worker_was_lost_is_not_waited_for(cluster: SimpleNamespace) -> None:
    """Dask forgets a lost worker's job after a while, yet still wants as many, and submits none."""
    coming = asked(cluster)
    cluster.workers, cluster.says = {0: job("7"), 1: job("8")}, "RUNNING (None)\nRUNNING (None)\n"
    assert coming(2) is None
    cluster.workers, cluster.says = {1: job("8")}, "RUNNING (None)\n"
    assert coming(1) is None
    cluster.workers = {}
    assert coming(0) is None


def test_a_job_that_sbatch_refused_is_not_waited_for(cluster: SimpleNamespace) -> None:
    coming = asked(cluster)
    cluster.workers, cluster.says = {0: job("7"), 1: job(None)}, "RUNNING (None)\n"
    assert coming(1) is None


def test_a_slurm_that_does_not_answer_changes_nothing(cluster: SimpleNamespace) -> None:
    coming = asked(cluster)
    cluster.workers, cluster.says = {0: job("7"), 1: job("8")}, "PENDING (Priority)\nPENDING (Priority)\n"
    expected = "2 jobs of SLURM: PENDING (Priority)"
    assert coming(0) == expected
    cluster.says = None
    assert coming(0) == expected


def test_ctrl_c_stays_the_command_s(tmp_path: Path) -> None:
    """In a process of its own, as the import of dask_jobqueue replaces the handler the first time alone."""
    pytest.importorskip("distributed")
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs: 0")
    program = f"""
import signal, sys
from flashbench.errors import ConfigError
from flashbench.studies.cluster.slurm import start_jobs
before = signal.getsignal(signal.SIGINT)
try:
    start_jobs({os.fspath(path)!r})
except ConfigError as error:
    print(error)
assert "dask_jobqueue" in sys.modules
assert signal.getsignal(signal.SIGINT) is before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "must have jobs" in done.stdout
