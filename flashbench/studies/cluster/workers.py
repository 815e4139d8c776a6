"""The workers of a cluster as they come and go."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flashbench.studies.cluster.identity import identify, refusal


class Worker(NamedTuple):
    """A worker that may measure."""

    address: str
    host: str
    machine: str  # the same for all workers of one machine, whatever their hosts are called
    cpu: str


class ClusterLostError(Exception):
    """The scheduler does not answer."""


class Workers:
    """Who is there now. Nobody is asked twice, and nobody who is slow to answer holds up the others."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._own = identify()
        self._asked: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[str, Mapping[str, Any] | BaseException]] = queue.SimpleQueue()
        self.known: dict[str, Worker] = {}
        self.refused: dict[str, str] = {}
        # Also those that may not measure: now, and at most at once so far.
        self.present = self.most = 0

    @property
    def unknown(self) -> bool:
        """Whether a worker has been asked who it is, and has not answered."""
        return len(self._asked) > len(self.known) + len(self.refused)

    def look(self) -> tuple[list[Worker], list[Worker]]:
        """The workers that came and those that went since the last look. Raises ClusterLostError."""
        try:
            present = set(self._client.nthreads())
        except (OSError, ValueError, RuntimeError) as error:  # also a client that is closed
            raise ClusterLostError(str(error)) from error
        for address in present - self._asked:
            self._asked.add(address)
            threading.Thread(target=self._ask, args=(address,), daemon=True).start()
        self.present = len(present)
        self.most = max(self.most, self.present)
        came = list(self._accepted(present))
        gone = [worker for address, worker in self.known.items() if address not in present]
        for address in self._asked - present:
            self._asked.discard(address)
            self.known.pop(address, None)
            self.refused.pop(address, None)
        return came, gone

    def _ask(self, address: str) -> None:
        try:
            answer = self._client.run(identify, workers=[address], on_error="return")
            found = answer.get(address, OSError("it left"))
        except Exception as error:  # whatever a library raises is its answer
            found = error
        self._answers.put((address, found))

    def _accepted(self, present: set[str]) -> Iterator[Worker]:
        while not self._answers.empty():
            address, found = self._answers.get()
            if address not in present or address in self.known:
                continue
            reason = refusal(self._own, found)
            if isinstance(found, BaseException):
                self.refused[address] = f"worker {address} is refused: {reason}"
                continue
            worker = Worker(address, found["host"], found["machine"], found["cpu"])
            reason = reason or self._of_another_machine(worker)
            if reason is None:
                self.known[address] = worker
                yield worker
            else:
                self.refused[address] = f"worker {address} on {worker.host} is refused: {reason}"

    def _of_another_machine(self, worker: Worker) -> str | None:
        """Why a worker must not measure whose host is called as another machine: one would hide the other."""
        for other in self.known.values():
            if other.host == worker.host and other.machine != worker.machine:
                return f"{other.address} on another machine has this name; set FLASHBENCH_NODE of both"
        return None
