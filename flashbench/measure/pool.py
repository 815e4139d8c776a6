"""Workers by name. One is awake at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from flashbench.measure.worker import Worker, WorkerFailure
from flashbench.system.numba_settings import check_numba_settings


class WorkerPool:
    """Starts a worker when it is first needed, and a new one after a failure; use it as a context manager."""

    def __init__(
        self, threads: int, *, timeout_s: float, pythons: Mapping[str, str | None] | None = None
    ) -> None:
        """Every worker uses `threads` threads and has `timeout_s` for each request.

        `pythons` maps a worker's name to its interpreter, for workers in another environment. Raises
        ConfigError for settings of Numba under which no worker could load its kernels.
        """
        check_numba_settings()
        self._threads = threads
        self._timeout_s = timeout_s
        self._pythons = pythons or {}
        self._workers: dict[str, Worker] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()

    def renew(self, modules: Mapping[str, Sequence[str]]) -> None:
        """Replace the workers of these names by new ones with their modules imported, all at rest.

        They start in parallel, because a start mostly waits for files and for one core.
        """
        for name in modules:
            if name in self._workers:
                self._workers.pop(name).close()
            self._workers[name] = self._start(name)
        with ThreadPoolExecutor(max(1, len(modules))) as threads:
            list(threads.map(lambda name: _wake_up(self._workers[name], modules[name]), modules))

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[Worker]:
        """The worker of that name. It rests after the body, so that it disturbs no other worker."""
        worker = self._workers.get(name)
        if worker is None or not worker.alive:
            if worker is not None:
                worker.close()
            worker = self._workers[name] = self._start(name)
        try:
            yield worker
        finally:
            if worker.alive:
                worker.rest()

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Worker]:
        """A new worker for the body alone."""
        with self._start(None) as worker:
            yield worker

    def _start(self, name: str | None) -> Worker:
        python = None if name is None else self._pythons.get(name)
        return Worker(self._threads, timeout_s=self._timeout_s, python=python)


def _wake_up(worker: Worker, modules: Sequence[str]) -> None:
    # The worker's first request reports why it did not start.
    with contextlib.suppress(WorkerFailure):
        worker.hello(modules)
    if worker.alive:
        worker.rest()
