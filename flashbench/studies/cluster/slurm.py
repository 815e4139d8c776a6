"""A cluster of SLURM's jobs, one worker each, by dask-jobqueue."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashbench.errors import ConfigError, mid_sentence
from flashbench.integrations.requirements import missing
from flashbench.studies.cluster.common import LOOPBACK, NO_DASHBOARD, Coming
from flashbench.studies.cluster.identity import RESOURCE

_NEEDED = ("cores", "memory")
_KINDS: dict[str, type] = {"scheduler_options": dict, "worker_extra_args": list, "job_extra_directives": list}
_WORKER_WORDS = (
    *("--resources", f"{RESOURCE}=1", "--nthreads", "1"),
    *("--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0"),
)
_ASK_AGAIN_S = 5.0
_COMMAND_S = 30.0


def start_jobs(path: str) -> tuple[Any, Coming]:
    """The cluster, whose jobs are submitted, and whether some of them are still to start.

    Raises ConfigError for a wrong file, and for jobs that SLURM would never start.
    """
    settings = _read(Path(path))
    try:
        with keeping_interrupts():
            from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        raise missing(error, "--cluster slurm:FILE", "cluster") from error
    jobs = settings.pop("jobs", None)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ConfigError(f"{path} must have jobs, a number of workers from 1 up, not {jobs!r}")
    for name in _NEEDED:
        if name not in settings:
            raise ConfigError(f"{path} must have {name}, which SLURMCluster needs")
    try:
        cluster = SLURMCluster(**_arguments(settings))
    except (TypeError, ValueError, RuntimeError) as error:
        words = str(error).partition("Very likely")[0].strip()  # then follow all settings
        raise ConfigError(f"{path}: SLURMCluster says: {mid_sentence(words)}") from error
    except OSError as error:  # of log_directory
        raise ConfigError(f"{path}: {error.filename} cannot be made: {error.strerror or error}") from error
    try:
        _try(cluster.job_script(), path)
        cluster.scale(jobs=jobs)
    except BaseException:
        cluster.close()
        raise
    return cluster, _Queue(cluster)


@contextmanager
def keeping_interrupts() -> Iterator[None]:
    """Put the handler of Ctrl-C back: dask_jobqueue's import replaces it by one that ends the process."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of SLURMCluster. Raises TypeError for settings that are not lists or mappings but must be."""
    defaults = {
        "processes": 1,
        "python": sys.executable,
        "job_extra_directives": ["--exclusive"],  # a node alone: what else runs there would be measured too
    }
    if not settings["memory"]:
        defaults["job_mem"] = 0  # all memory of the node: dask-jobqueue cannot make it from no limit
    for name, kind in _KINDS.items():
        if not isinstance(settings.get(name, kind()), kind):
            raise TypeError(f"{name} is a {kind.__name__}, not {settings[name]!r}")
    return {
        **defaults,
        **settings,
        "scheduler_options": NO_DASHBOARD | settings.get("scheduler_options", {}),
        "worker_extra_args": [*_WORKER_WORDS, *settings.get("worker_extra_args", [])],
    }


def _read(path: Path) -> dict[str, Any]:
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


def _try(script: str, path: str) -> None:
    """Ask SLURM whether the job could run at all: dask-jobqueue only logs what SLURM refuses."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            asked = subprocess.run(
                ["sbatch", "--test-only", file.name], capture_output=True, text=True, timeout=_COMMAND_S
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(f"SLURM does not answer: sbatch took {_COMMAND_S:.0f} s and more") from error
        except FileNotFoundError as error:
            raise ConfigError(
                "--cluster slurm:FILE needs SLURM's commands, and there is no sbatch here",
                hint="run it on a host that submits jobs",
            ) from error
    if asked.returncode != 0:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise ConfigError(f"{path}: SLURM refuses such a job: {'; '.join(lines)}")


class _Queue:
    """Whether jobs are in SLURM's queue that have no worker yet."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._jobs: list[str] = []  # the state of each, and the reason while it waits
        self._submitted = False  # all of them: at once, and never again
        self._next_s = 0.0

    def __call__(self, present: int, most: int) -> str | None:
        """Jobs that have no worker yet, with their states; None: every job has one, or has ended."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + _ASK_AGAIN_S
            self._jobs = self._ask()
        if len(self._jobs) <= present:
            return None
        waiting = [job for job in self._jobs if not job.startswith("RUNNING")] or self._jobs
        count = len(self._jobs) - present
        return f"{count} job{'' if count == 1 else 's'} of SLURM: {', '.join(dict.fromkeys(waiting))}"

    def _ask(self) -> list[str]:
        jobs = list(self._cluster.workers.values())
        self._submitted = self._submitted or bool(jobs)
        if not self._submitted:
            return ["SUBMITTED"] * len(self._cluster.worker_spec)
        names = [str(job.job_id) for job in jobs if getattr(job, "job_id", None)]
        if not names:
            return []
        try:
            asked = subprocess.run(
                ["squeue", "--noheader", "--format=%T (%r)", f"--jobs={','.join(names)}"],
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
            )
        except subprocess.TimeoutExpired:  # SLURM is busy: what it said last is the best that is known
            return self._jobs
        # An unknown job, which has ended, is an error of squeue if it is the only one that is asked for.
        lines = asked.stdout.splitlines() if asked.returncode == 0 else []
        return [line.replace(" (None)", "") for line in lines]
