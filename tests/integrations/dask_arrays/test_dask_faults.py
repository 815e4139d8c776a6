"""Faults that an attention on Dask survives: nothing is lost, and the bits are those of one machine."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

dask = pytest.importorskip("dask")
pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from helpers.dask_arrays import arrays, assert_equal, lazy, of_one_machine, options_of
from helpers.dask_cluster import (
    keep_spill_messages,
    local_cluster,
    processes,
    slowly,
    spill_messages,
    times_computed,
)

from flashbench.integrations.dask import Placement

RUNS = 20
OPTIONS = options_of("all", np.float64) | {"window": (300, 0), "key_lengths": None}
MADE = arrays(rows=384, keys=384)


def attentions() -> list[Any]:
    """o, lse and gradients, lazy; loading their chunks takes a second or so."""
    chunked = MADE.chunked(48, 64)
    return lazy(chunked._replace(**{n: getattr(chunked, n).map_blocks(slowly) for n in "qkv"}), **OPTIONS)


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """The results of this process alone."""
    found = list(dask.compute(*attentions(), scheduler="synchronous"))
    assert_equal(found, of_one_machine(MADE, **OPTIONS))
    return found


def assert_bits(found: list[Any], expected: list[Any]) -> None:
    assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]


@pytest.mark.grid
def test_killed_workers_change_no_bit(expected: list[Any]) -> None:
    draw = random.Random(0)
    hit = 0
    # LocalCluster gives up a worker that is away so long after a kill, even if it is away for a second kill.
    settings = {"distributed.deploy.lost-worker-timeout": "1 hour", "distributed.comm.timeouts.connect": "5s"}
    with local_cluster(config=settings) as client:
        start = time.monotonic()
        assert_bits(client.gather(client.compute(attentions())), expected)
        longest = time.monotonic() - start
        for _ in range(RUNS):
            client.wait_for_workers(2, timeout=60)
            victim = draw.choice(processes(client))
            futures = client.compute(attentions())
            time.sleep(draw.uniform(0, 0.8 * longest))
            hit += not all(future.done() for future in futures)
            os.kill(victim, signal.SIGKILL)
            assert_bits(client.gather(futures), expected)
            del futures
    assert hit > RUNS // 2


def test_a_stopped_worker_loses_nothing_and_repeats_nothing(expected: list[Any]) -> None:
    with local_cluster() as client:
        slow, _ = processes(client)
        futures = client.compute(attentions())
        time.sleep(0.5)
        os.kill(slow, signal.SIGSTOP)
        time.sleep(2)
        assert not all(future.done() for future in futures)
        os.kill(slow, signal.SIGCONT)
        assert_bits(client.gather(futures), expected)
        assert set(client.run_on_scheduler(times_computed).values()) == {1}


SPILL_ALL = {
    "distributed.worker.memory.target": 6.4e-5,  # 64 kB of 1 GB: some chunks
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def gathered_at_last(client: distributed.Client, futures: Any, tries: int = 20) -> Any:
    for _ in range(tries - 1):
        with suppress(OSError, KeyError):
            return client.gather(futures)
    return client.gather(futures)


def test_a_full_disk_under_the_spill_changes_no_bit(expected: list[Any], small_disk: Path) -> None:
    with local_cluster(folder=small_disk, config=SPILL_ALL, memory_limit="1 GB") as client:
        client.run(keep_spill_messages)
        # Dask makes room on the disk when it reads a spilled result. If it cannot, the task fails. But then
        # the result is in memory, and another try finds it. So it is when the client fetches results.
        assert_bits(gathered_at_last(client, client.compute(attentions(), retries=100)), expected)
        failed = [message for messages in client.run(spill_messages).values() for message in messages]
        assert "Spill to disk failed; keeping data in memory" in failed


def no_more_files() -> None:
    """As on a full disk: a file that this process writes may not have a byte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_disk_that_takes_nothing_changes_no_bit(expected: list[Any]) -> None:
    with local_cluster(config=SPILL_ALL, memory_limit="1 GB") as client:
        client.run(no_more_files)
        client.run(keep_spill_messages)
        assert_bits(client.gather(client.compute(attentions())), expected)
        failed = [message for messages in client.run(spill_messages).values() for message in messages]
        assert "Spill to disk failed; keeping data in memory" in failed


@contextmanager
def scheduler_and_workers(folder: Path) -> Iterator[tuple[distributed.Client, int]]:
    """A client, and the process of the scheduler, which the test may kill; two workers."""
    file = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # for `slowly`
    command = [sys.executable, "-m", "distributed.cli.dask_"]

    def start(what: str, *options: str) -> subprocess.Popen[bytes]:
        line = [*command[:2], command[2] + what, *options, "--scheduler-file", str(file)]
        line += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        return subprocess.Popen(
            line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    scheduler = start("scheduler", "--port", "0")
    worker = start("worker", "--nworkers", "2", "--nthreads", "1", "--local-directory", str(folder))
    try:
        with distributed.Client(scheduler_file=str(file), timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
            client.register_plugin(Placement())
            yield client, scheduler.pid
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)


@pytest.mark.grid
def test_a_killed_scheduler_is_an_error_and_the_next_run_gives_the_result(
    expected: list[Any], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with scheduler_and_workers(first) as (client, scheduler):
        futures = client.compute(attentions())
        time.sleep(0.5)
        os.kill(scheduler, signal.SIGKILL)
        with pytest.raises(
            CancelledError, match=r"(?s)lost the connection to the scheduler.*re-run your work"
        ):
            client.gather(futures)
    with scheduler_and_workers(second) as (client, _):
        assert_bits(client.gather(client.compute(attentions())), expected)
