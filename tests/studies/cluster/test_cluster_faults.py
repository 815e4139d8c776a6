"""Killed, stopped and lost: nothing is lost, nothing doubled, nothing left running."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from flashbench.results.record import Results
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted

pytest.importorskip("distributed")

from helpers.clusters import STUDY, hosts, lengths, measured, workers_of

from flashbench.studies.cluster.dispatch import ClusterError


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
