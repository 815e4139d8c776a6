"""Dask clusters of worker processes on this machine, and what they tell of themselves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import distributed

from flashbench.integrations.dask import Placement

SETTINGS = {
    # Transfers and transitions of a whole test are in the logs.
    "distributed.admin.low-level-log-length": 200_000,
    # It may drop a copy that is needed once more.
    "distributed.scheduler.active-memory-manager.start": False,
}


@contextmanager
def local_cluster(
    workers: int = 2,
    *,
    folder: Path | None = None,
    config: dict[str, Any] | None = None,
    memory_limit: Any = 0,
) -> Iterator[distributed.Client]:
    """A client of worker processes of one thread, with `Placement`.

    folder: for what they spill. memory_limit: of a worker, 0 for none.
    """
    with (
        dask.config.set({**SETTINGS, **(config or {})}),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(Placement())
        yield client


def processes(client: distributed.Client) -> list[int]:
    """The processes of the workers."""
    return list(client.run(os.getpid).values())


def received(dask_worker: Any) -> list[dict[str, Any]]:
    """What this worker received: the keys of each transfer with their bytes, its start and stop."""
    return list(dask_worker.transfer_incoming_log)


def times_computed(dask_scheduler: Any) -> dict[Any, int]:
    """How often each task of an attention came from a worker, by key."""
    found: dict[Any, int] = {}
    for key, start, finish, *_ in dask_scheduler.transition_log:
        if (start, finish) == ("processing", "memory") and "attention" in str(key):
            found[key] = found.get(key, 0) + 1
    return found


def slowly(chunk: Any) -> Any:
    """A chunk, as from a slow disk."""
    time.sleep(0.01)
    return chunk


class Kept(logging.Handler):
    """Messages, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def keep_spill_messages(dask_worker: Any) -> None:
    """Let this worker keep what it logs about spilling."""
    dask_worker.spill_messages = Kept()
    logging.getLogger("distributed.spill").addHandler(dask_worker.spill_messages)


def spill_messages(dask_worker: Any) -> list[str]:
    """What this worker logged about spilling."""
    return list(dask_worker.spill_messages.messages)
