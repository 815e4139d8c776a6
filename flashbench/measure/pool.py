"""Workers by name, of which one is awake at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

from flashbench.measure.worker import Worker


class WorkerPool:
    """Starts a worker when it is first needed, and a fresh one after a failure; use as a context manager."""

    def __init__(self, threads: int, *, timeout_s: float) -> None:
        """Every worker uses `threads` threads and has `timeout_s` for each request."""
        self._threads = threads
        self._timeout_s = timeout_s
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[Worker]:
        """The worker of that name, sent to rest at the end of the body, so that it disturbs no other."""
        worker = self._workers.get(name)
        if worker is None or not worker.alive:
            if worker is not None:
                worker.close()
            worker = self._workers[name] = Worker(self._threads, timeout_s=self._timeout_s)
        try:
            yield worker
        finally:
            if worker.alive:
                worker.rest()
