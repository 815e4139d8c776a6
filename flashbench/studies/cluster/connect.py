"""From `--cluster` to a client of Dask: a scheduler that runs, processes here, or jobs of SLURM."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from flashbench.errors import ConfigError, mid_sentence
from flashbench.integrations.requirements import missing
from flashbench.studies.cluster.common import LOOPBACK, NO_DASHBOARD, Coming, nobody
from flashbench.studies.cluster.identity import RESOURCE
from flashbench.studies.cluster.slurm import start_jobs

_RULE = "--cluster takes tcp://HOST:PORT, local:N or slurm:FILE.yaml"
_CONNECT_S = 10
# Ctrl-C on a terminal goes to the command and to its workers. It is the command's to handle.
_IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


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
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise missing(error, "--cluster", "cluster") from error
    if "://" in spec:
        with _client(Client, spec) as client:
            yield Connection(client)
        return
    if kind == "local":
        started, coming = _local(spec, rest)
    elif kind == "slurm":
        started, coming = start_jobs(rest)
    else:
        raise ConfigError(f"{_RULE}, not {spec!r}")
    with started as cluster, Client(cluster, set_as_default=False) as client:
        yield Connection(client, coming)


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
    cluster = LocalCluster(
        n_workers=int(count),
        threads_per_worker=1,
        resources={RESOURCE: 1},
        host=LOOPBACK,
        scheduler_kwargs=NO_DASHBOARD,
        preload=_IGNORE_INTERRUPTS,
        silence_logs=logging.CRITICAL,
    )
    return cluster, lambda present, most: "its processes start" if most < int(count) else None
