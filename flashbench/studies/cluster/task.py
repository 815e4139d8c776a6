"""What a worker of Dask runs: a process that measures one part, and whose messages go to the client."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from flashbench.measure.process import THREAD_VARIABLES

_BOOTSTRAP = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from flashbench.studies.cluster.host_process import main; main()"
)
_LOOK_S = 0.5  # how often a task looks whether it was cancelled
_LAST_WORDS_BYTES = 4096


def measure(job: str, topic: str) -> str:
    """Measure a part on this worker's host; the last message of its process.

    job: JSON of `host_process.Job`. topic: of Dask's events, under which each message goes to the client with
    the task's key. Raises RuntimeError if the process dies, or the task is cancelled.
    """
    from distributed import get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()
    last = ""
    with _process(job) as lines:
        for line in lines:
            if line:
                worker.log_event(topic, {"task": key, "message": line})
                last = line
            elif _is_cancelled(worker, key):
                raise RuntimeError("cancelled")
    return last


@contextmanager
def _process(job: str) -> Iterator[Iterator[str]]:
    """Start the process; yields its lines, and "" now and then. Ended at exit, whatever happens."""
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, json.dumps([os.fspath(path) for path in sys.path if path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=own_environment(),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job.encode() + b"\n")
            process.stdin.flush()  # stays open: its end would end the process
            yield _lines_of(process.stdout)
            if process.wait() != 0:
                stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
                words = stderr.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(
                    f"its process ended with {process.returncode}: {words[-1] if words else ''}"
                )
        finally:
            process.kill()
            process.wait()
            process.stdin.close()


def _lines_of(pipe: IO[bytes]) -> Iterator[str]:
    found: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, found), daemon=True).start()
    while True:
        try:
            line = found.get(timeout=_LOOK_S)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line.decode().strip()


def _read(pipe: IO[bytes], found: queue.SimpleQueue[bytes | None]) -> None:
    with pipe:
        for line in pipe:
            found.put(line)
    found.put(None)


def _is_cancelled(worker: Any, key: str) -> bool:
    """Whether nobody waits for the task: its client cancelled it or is gone, or the scheduler is.

    Without its scheduler a worker closes, and waits half a minute for its task.
    """
    state = worker.state.tasks.get(key)
    return state is None or state.state == "cancelled" or worker.status.name == "closing"


def own_environment(set_by_dask: Iterable[str] | None = None) -> dict[str, str]:
    """This worker's environment, less what Dask's nanny sets and the numbers of threads.

    Our worker processes set their own numbers of threads, and a study sees every core of the host. What is
    flashbench's stays: the nanny's settings may name the host.
    """
    if set_by_dask is None:
        import dask

        names = ("distributed.nanny.environ", "distributed.nanny.pre-spawn-environ")
        set_by_dask = [key for name in names for key in dask.config.get(name, {})]
    without = {*THREAD_VARIABLES, *set_by_dask}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in without or name.startswith("FLASHBENCH_")
    }
