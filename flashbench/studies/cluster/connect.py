"""From `--cluster` to a client of Dask: a scheduler that runs, processes here, or jobs of SLURM."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

from flashbench.errors import ConfigError, mid_sentence
from flashbench.integrations.requirements import missing
from flashbench.studies.cluster.common import LOOPBACK, NO_DASHBOARD, Coming, nobody
from flashbench.studies.cluster.identity import RESOURCE
from flashbench.studies.cluster.slurm import start_jobs

_RULE = "--cluster takes tcp://HOST:PORT, local:N or slurm:FILE.yaml"
_CONNECT_S = 10


class Connection(NamedTuple):
    """A client of Dask, and what is known of workers that are still to come."""

    client: Any
    coming: Coming = nobody


@contextmanager
def connected(spec: str) -> Iterator[Connection]:
    """Connect, or start a cluster for as long as the block runs.

    Raises ConfigError for a wrong address or file, and EngineError if a package is missing.
    """
    kind, _, rest = spec.partition(":")
    client_of = _client_type()
    if "://" in spec:
        with _client(client_of, spec) as client:
            yield Connection(client)
        return
    if kind == "local":
        started, coming = _local(spec, rest)
    elif kind == "slurm":
        started, coming = start_jobs(rest)
    else:
        raise ConfigError(f"{_RULE}, not {spec!r}")
    with started as cluster, client_of(cluster, set_as_default=False) as client:
        yield Connection(client, coming)


def _client_type() -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise missing(error, "--cluster", "cluster") from error

    class ClosedByWith(Client):  # type: ignore[misc]
        """Dask's own closes itself when collected. One that never connected waits 20 s for that, in vain."""

        def __del__(self) -> None:
            pass

    return ClosedByWith


def _client(client_of: Any, address: str) -> Any:
    try:
        return client_of(address, timeout=_CONNECT_S, set_as_default=False)
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # nobody answers; no such protocol; TLS without keys
        raise ConfigError(
            f"--cluster {address}: {mid_sentence(str(error))}",
            hint="start a scheduler with: dask scheduler",
        ) from error


def _local(spec: str, count: str) -> tuple[Any, Coming]:
    """Worker processes on this machine, which take turns: it shows what a cluster does without one."""
    from distributed import LocalCluster

    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"--cluster local:N takes a number of workers from 1 up, not {spec!r}")
    with _without_interrupts():
        cluster = LocalCluster(
            n_workers=int(count),
            threads_per_worker=1,
            memory_limit=0,
            resources={RESOURCE: 1},
            host=LOOPBACK,
            scheduler_kwargs=NO_DASHBOARD,
            silence_logs=logging.CRITICAL,
        )
    return cluster, lambda present, most: "its processes start" if most < int(count) else None


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Threads and processes that begin here never get SIGINT, and this thread gets it at the end.

    Ctrl-C on a terminal goes to the command and to its workers. It is the command's to handle, and a worker
    that it ends while it starts would make Dask fail.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start, with the first process, would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
