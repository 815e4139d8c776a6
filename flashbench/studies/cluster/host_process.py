"""The process that measures a part on its host: the ordinary study, told and asked by pipes.

It is not the worker of Dask itself: a study starts processes, pins itself to CPUs, and must end at once if
the worker is lost or the task is cancelled.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import msgspec

from flashbench.errors import FlashbenchError
from flashbench.measure.child import private_pipes
from flashbench.results.record import Results
from flashbench.studies import infer, runner, train
from flashbench.studies.cluster.parts import STUDIES, AnyStudy
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.system.affinity import pinned_to
from flashbench.texts import to_json

# How often messages go through Dask's scheduler at most.
PROGRESS_S = 1.0
RESULTS_S = 10.0
_RUNS: Mapping[str, Callable[..., Results]] = {
    "profile": runner.run,
    "sweep": runner.run,
    "train": train.run,
    "infer": infer.run,
}


class Job(msgspec.Struct, frozen=True):
    """What the process is asked for, as one line of JSON."""

    study: dict[str, Any]
    command: list[str]
    directory: str  # of the command: relative paths of a study begin there, if this host has it
    earlier: Results | None = None


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """A step of the run begins."""

    done: int
    total: int
    label: str
    left_s: float | None


class Grown(msgspec.Struct, frozen=True, tag="grown"):
    """What is known so far."""

    results: Results


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last message: all results."""

    results: Results


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The last message: an error that the user can fix. nothing: no point of the part can be measured."""

    message: str
    hint: str | None
    nothing: bool


Message = Moved | Grown | Done | Refused


def main() -> None:
    """Read a job, and write messages until the last."""
    jobs, messages = private_pipes()
    job = msgspec.json.decode(jobs.readline(), type=Job)
    threading.Thread(target=_end_with, args=(jobs,), daemon=True).start()
    if os.path.isdir(job.directory):
        os.chdir(job.directory)
    study: AnyStudy = msgspec.convert(job.study, STUDIES[job.study["kind"]])
    messages.write(to_json(_measured(study, job, _Sender(messages))) + b"\n")
    messages.flush()


def _measured(study: AnyStudy, job: Job, sender: _Sender) -> Done | Refused:
    try:
        with pinned_to(study.cpus):
            results = _RUNS[study.kind](
                study,
                command=job.command,
                on_progress=sender.moved,
                on_results=sender.grown,
                earlier=job.earlier,
            )
    except FlashbenchError as error:
        return Refused(str(error), error.hint, isinstance(error, NothingToMeasureError))
    return Done(results)


def _end_with(jobs: BinaryIO) -> None:
    """End this process, and with it its workers, when the other end of the pipe is gone."""
    jobs.read()
    os._exit(1)


class _Sender:
    """Writes messages, each kind now and then."""

    def __init__(self, messages: BinaryIO) -> None:
        self._messages = messages
        self._next_s = {Moved: 0.0, Grown: 0.0}

    def moved(self, step: Progress) -> None:
        self._write(Moved(step.done, step.total, step.label, step.left_s), PROGRESS_S)

    def grown(self, results: Results) -> None:
        self._write(Grown(results), RESULTS_S)

    def _write(self, message: Moved | Grown, pause_s: float) -> None:
        now = time.monotonic()
        if now < self._next_s[type(message)]:
            return
        self._next_s[type(message)] = now + pause_s
        self._messages.write(to_json(message) + b"\n")
        self._messages.flush()
