"""From `--cluster` to a client of Dask: a scheduler that runs, processes here, or jobs of SLURM."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from flashbench.errors import ConfigError, mid_sentence
from flashbench.integrations.requirements import missing
from flashbench.studies.cluster.identity import RESOURCE

_RULE = "--cluster takes tcp://HOST:PORT, local:N or slurm:FILE.yaml"
_CONNECT_S = 10
LOOPBACK = "127.0.0.1"
# Dask's scheduler has an HTTP server even so: on a port that is free, and on loopback alone.
_NO_DASHBOARD = {"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
# Ctrl-C on a terminal goes to the command and to its workers. It is the command's to handle.
_IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


class Connection(NamedTuple):
    """A client of Dask, and the number of workers that will come; None: those that are there."""

    client: Any
    expected: int | None


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
            yield Connection(client, None)
        return
    if kind == "local":
        started, expected = _local(spec, rest)
    elif kind == "slurm":
        started, expected = _slurm(rest)
    else:
        raise ConfigError(f"{_RULE}, not {spec!r}")
    with started as cluster, Client(cluster, set_as_default=False) as client:
        yield Connection(client, expected)


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


def _local(spec: str, count: str) -> tuple[Any, int]:
    """Worker processes on this machine, which take turns: it shows what a cluster does without one."""
    from distributed import LocalCluster

    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"--cluster local:N takes a number of workers from 1 up, not {spec!r}")
    cluster = LocalCluster(
        n_workers=int(count),
        threads_per_worker=1,
        resources={RESOURCE: 1},
        host=LOOPBACK,
        scheduler_kwargs=_NO_DASHBOARD,
        preload=_IGNORE_INTERRUPTS,
        silence_logs=logging.CRITICAL,
    )
    return cluster, int(count)


def _slurm(path: str) -> tuple[Any, int]:
    """Jobs of SLURM, one worker each."""
    settings = _settings(Path(path))
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        raise missing(error, "--cluster slurm:FILE", "cluster") from error
    jobs = settings.pop("jobs", None)
    if not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"{path} must have jobs, a number of workers from 1 up, not {jobs!r}")
    for name in ("cores", "memory"):
        if name not in settings:
            raise ConfigError(f"{path} must have {name}, which SLURMCluster needs")
    arguments = {
        "processes": 1,
        "python": sys.executable,
        "job_extra_directives": ["--exclusive"],  # a node alone: what else runs there would be measured too
        **settings,
    }
    arguments["scheduler_options"] = _NO_DASHBOARD | arguments.get("scheduler_options", {})
    resources = ["--resources", f"{RESOURCE}=1", "--nthreads", "1"]
    arguments["worker_extra_args"] = [*arguments.get("worker_extra_args", []), *resources]
    try:
        cluster = SLURMCluster(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: SLURMCluster says: {mid_sentence(str(error))}") from error
    try:
        cluster.scale(jobs=jobs)
    except BaseException:
        cluster.close()
        raise
    return cluster, jobs


def _settings(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--cluster slurm:{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must name settings of SLURMCluster and jobs, such as 'jobs: 4'")
    return {str(name): value for name, value in found.items()}
