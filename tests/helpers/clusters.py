"""Clusters of Dask on this machine whose workers call themselves different hosts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Nanny, Scheduler, SpecCluster

BENCH = {"bench": 1}


@contextmanager
def hosts(
    names: Sequence[str],
    *,
    resources: Mapping[str, float] = BENCH,
    environment: Mapping[str, str] | None = None,
    security: Any = None,
) -> Iterator[SpecCluster]:
    """A scheduler on loopback, and one worker process a name."""
    of_all = {"nthreads": 1, "resources": dict(resources), "silence_logs": logging.CRITICAL}
    of_all |= {"security": security, "host": "127.0.0.1", "dashboard_address": None}
    workers = {
        number: {
            "cls": Nanny,
            "options": of_all | {"env": {**(environment or {}), "FLASHBENCH_NODE": name}},
        }
        for number, name in enumerate(names)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {
            "host": "127.0.0.1",
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "security": security,
        },
    }
    with SpecCluster(
        workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL, security=security
    ) as cluster:
        yield cluster
