"""Clusters of Dask on this machine whose workers call themselves different hosts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
from distributed import Nanny, Scheduler, SpecCluster

from flashbench.results.record import Results
from flashbench.studies.cluster import run_on_cluster
from flashbench.studies.cluster.parts import AnyStudy
from flashbench.studies.study import Study

BENCH = {"bench": 1}
# Its processes need no Numba but for the limits of the machine.
STUDY = Study(engines=["numpy"], seq_lens=[16, 24], rounds=1, repeats=1, threads=1, memory=False)


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


def measured(study: AnyStudy, cluster: Any, *, each_node: bool = False, **options: Any) -> Results:
    """cluster: a cluster of Dask, or a word of --cluster."""
    address = cluster if isinstance(cluster, str) else cluster.scheduler_address
    return run_on_cluster(study, cluster=address, each_node=each_node, command=["flashbench"], **options)


def lengths(results: Results) -> list[int]:
    return sorted(row.problem.seqlen_q for task in results.hosts for row in task.measurements)


def workers_of(cluster: Any) -> list[psutil.Process]:
    """The processes of the workers, not of their nannies' helpers."""
    return [psutil.Process(nanny.pid) for nanny in cluster.workers.values() if nanny.pid is not None]
