"""Hands parts of a study to hosts, one at a time to each machine, until none is left."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from flashbench.errors import FlashbenchError
from flashbench.results.record import Results
from flashbench.studies.cluster import task
from flashbench.studies.cluster.connect import Connection
from flashbench.studies.cluster.host_process import Done, Grown, Message, Moved, Refused
from flashbench.studies.cluster.host_process import Job as Asked
from flashbench.studies.cluster.identity import RESOURCE
from flashbench.studies.cluster.jobs import Job, Ledger
from flashbench.studies.cluster.workers import ClusterLostError, Worker, Workers
from flashbench.studies.progress import HostProgress, Progress
from flashbench.texts import to_json

# How long to wait for a first worker, or for one to come back: a nanny restarts it within some seconds.
WAIT_S = 60.0
_LOOK_S = 0.5
_ANY = ""  # in place of a host's name


class ClusterError(FlashbenchError):
    """The cluster cannot measure: no worker that may, or no scheduler."""


@dataclass(eq=False)
class _Running:
    """A job on a worker."""

    job: Job
    worker: Worker
    future: Any
    step: Moved | None = None


class Dispatch:
    """The state of one run on a cluster."""

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        cluster: str,
        command: Sequence[str],
        on_progress: Callable[[Progress], None],
        on_step: Callable[[], None],
    ) -> None:
        self._client, self._coming = connection
        self._ledger, self._cluster, self._command = ledger, cluster, list(command)
        self._on_progress, self._on_step = on_progress, on_step
        self.workers = Workers(self._client)
        self.nothing: list[tuple[str, str]] = []  # part and reason
        self._running: dict[str, _Running] = {}  # by the task's key
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._topic = f"flashbench-{os.urandom(8).hex()}"
        self._number = 0
        self._missed_s: dict[str, float] = {}  # since when a host is waited for
        self._client.subscribe_topic(self._topic, lambda event: self._messages.put(event[1]))

    def measure(self) -> None:
        """Hand out jobs until none is left. Raises ClusterError."""
        self._say("waiting for workers")
        while True:
            self._look()
            if not self._running and not self._ledger.waiting and not self._more_may_come():
                break
            self._place()
            self._listen()
        self._say("done")

    def _look(self) -> None:
        """See which workers came and went."""
        try:
            came, gone = self.workers.look()
        except ClusterLostError as error:
            raise ClusterError(
                f"the scheduler of {self._cluster} does not answer any more: {error}",
                hint="the file of --save has what was measured: the same command with --resume goes on",
            ) from error
        for worker in came:
            self._ledger.meet(worker.host)
        for worker in gone:
            for key in [key for key, running in self._running.items() if running.worker == worker]:
                self._try_again(key, "was lost")
        self._stop_waiting_in_vain()

    def close(self) -> None:
        """End what still runs: its results are not wanted any more."""
        for running in self._running.values():
            running.future.cancel()
        self._running.clear()

    def _more_may_come(self) -> bool:
        """Whether a host may still come that should measure the study too."""
        if not self._ledger.each_node:
            return False
        return self.workers.unknown or not self._ledger.total or self._to_come() is not None

    def _to_come(self) -> str | None:
        return self._coming(self.workers.present, self.workers.most)

    def _place(self) -> None:
        """Give each idle machine a job."""
        busy = {running.worker.machine for running in self._running.values()}
        hosts = {worker.host for worker in self.workers.known.values()}
        for worker in self.workers.known.values():
            if worker.machine not in busy and (job := self._ledger.next_for(worker.host, hosts)) is not None:
                busy.add(worker.machine)
                self._begin(job, worker)

    def _begin(self, job: Job, worker: Worker) -> None:
        self._number += 1
        key = f"{self._topic}-{self._number}"
        asked = Asked(
            msgspec.to_builtins(job.part.study),
            self._command,
            os.getcwd(),
            self._ledger.earlier_of(job, worker.host),
        )
        future = self._client.submit(
            task.measure,
            to_json(asked).decode(),
            self._topic,
            key=key,
            workers=[worker.address],
            allow_other_workers=False,
            resources={RESOURCE: 1},
            retries=0,
            pure=False,
        )
        self._running[key] = _Running(job, worker, future)
        self._say(f"{job.part.name} begins on {worker.host}", news=True)

    def _listen(self) -> None:
        """Take what tasks say, and the ends of those that say no more."""
        try:
            event = self._messages.get(timeout=_LOOK_S)
            while True:
                self._hear(event)
                event = self._messages.get_nowait()
        except queue.Empty:
            pass
        for key in [key for key, running in self._running.items() if running.future.done()]:
            self._finish(key)

    def _hear(self, event: dict[str, Any]) -> None:
        running = self._running.get(event["task"])
        if running is None:  # of a task that was given up: its results are another host's now
            return
        message = msgspec.json.decode(event["message"], type=Message)
        if isinstance(message, Moved):
            running.step = message
            self._say(running.job.part.name)
        elif isinstance(message, Grown):
            self._keep(running, message.results)

    def _finish(self, key: str) -> None:
        running = self._running[key]
        if running.future.status != "finished":
            self._try_again(key, f"failed: {_reason(running.future)}")
            return
        del self._running[key]
        name, host = running.job.part.name, running.worker.host
        message = msgspec.json.decode(running.future.result(), type=Done | Refused)
        if isinstance(message, Done):
            self._keep(running, message.results)
            self._say(f"{name} is done on {host}", news=True)
        elif message.nothing:
            self.nothing.append((f"{name} on {host}", message.message))
        else:
            raise ClusterError(f"{name} on {host}: {message.message}", hint=message.hint)

    def _keep(self, running: _Running, results: Results) -> None:
        self._ledger.keep(running.job, results)
        self._on_step()

    def _try_again(self, key: str, why: str) -> None:
        running = self._running.pop(key)
        running.future.cancel()
        again = self._ledger.wait_again(running.job, running.worker.host)
        then = "is measured again" if again else "is given up"
        self._say(f"the worker on {running.worker.host} {why}: {running.job.part.name} {then}", news=True)

    def _stop_waiting_in_vain(self) -> None:
        """Give up after a while on hosts that jobs wait for, and on all jobs if there is no host at all."""
        now = time.monotonic()
        hosts = {worker.host for worker in self.workers.known.values()}
        wanted = {job.host for job in self._ledger.waiting if job.host is not None} - hosts
        wanted |= set() if hosts or self.workers.unknown else {_ANY}
        self._missed_s = {host: self._missed_s.get(host, now) for host in wanted}
        missed = {host for host, since_s in self._missed_s.items() if now - since_s > WAIT_S}
        for host in missed - {_ANY}:
            self._ledger.leave(host)
        if _ANY not in wanted or self._running:
            return
        if (why := self._to_come()) is not None:
            self._say(f"waiting for {why}")
        elif not self._number and (refused := list(self.workers.refused.values())):
            raise ClusterError("; ".join(refused))
        elif _ANY in missed and self._number:
            self._ledger.stop("no worker is left")
        elif _ANY in missed:
            raise ClusterError(
                f"{self._cluster} has no worker",
                hint=f"dask worker ... --resources {RESOURCE}=1 starts one; SLURM's logs say why jobs ended",
            )

    def _say(self, label: str, *, news: bool = False) -> None:
        by_host = {running.worker.host: running for running in self._running.values()}
        hosts = dict.fromkeys(worker.host for worker in self.workers.known.values())
        left = [running.step.left_s for running in by_host.values() if running.step is not None]
        known = [each for each in left if each is not None]
        all_known = len(known) == len(by_host) and not self._ledger.waiting
        self._on_progress(
            Progress(
                self._ledger.finished,
                self._ledger.total,
                label,
                max(known) if known and all_known else None,
                [self._of_host(host, by_host.get(host)) for host in hosts],
                label if news else None,
            )
        )

    def _of_host(self, host: str, running: _Running | None) -> HostProgress:
        finished = self._ledger.finished_by(host)
        if running is None:
            return HostProgress(host, finished)
        step = running.step or Moved(0, 0, "begins", None)
        return HostProgress(
            host, finished, running.job.part.name, step.label, step.done, step.total, step.left_s
        )


def _reason(future: Any) -> str:
    """Why a task has no result."""
    if future.status != "error":
        return str(future.status)
    return str(future.exception()).strip().partition("\n")[0]
