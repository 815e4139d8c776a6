"""A SLURM of the tests' own on one machine: munged, slurmctld, and a slurmd for each node, on loopback.

    with slurm(nodes=2) as made, made.used():
        SLURMCluster(...)

Needs neither systemd nor control groups. Its user is the user of the tests.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from helpers.ports import free_ports

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # Debian's daemons
PARTITION = "compute"
CPUS = 2  # so that two jobs would share a node without --exclusive
needs_slurm = pytest.mark.skipif(
    not all(shutil.which(name, path=PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch")),
    reason="needs slurmctld and slurmd: apt-get install slurmctld slurmd",
)
_CONFIGURATION = """\
ClusterName=flashbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
StateSaveLocation={directory}
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
PartitionName={partition} Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4096\n"


class Slurm(NamedTuple):
    """A running SLURM: what a program needs to use it, and its files."""

    nodes: tuple[str, ...]
    environment: dict[str, str]
    directory: Path

    def run(self, *command: str) -> str:
        """The output of one of SLURM's commands, such as `run("squeue", "-h")`.

        Raises:
            AssertionError: the command failed; the message is its own.
        """
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    @contextmanager
    def used(self) -> Iterator[None]:
        """Its commands work in this process and in those that it starts."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            yield

    def states(self) -> dict[str, str]:
        """Each node's state by its name, such as {"node1": "idle"}."""
        return dict(line.split() for line in self.run("sinfo", "-hN", "-o", "%N %t").splitlines())

    def jobs(self) -> list[str]:
        """The numbers of jobs that wait, run or end."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def processes(self) -> list[psutil.Process]:
        """Daemons, jobs, and the step of each job, and whatever else was started with its SLURM_CONF."""
        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it ends, or is another user's
                if process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    found.add(process)
                    if (parent := process.parent()) and parent.name() == "slurmstepd":
                        found.add(parent)  # it hides its environment
        return list(found - {psutil.Process()})


@contextmanager
def slurm(nodes: int = 2) -> Iterator[Slurm]:
    """A SLURM of that many nodes of 2 CPUs each, all idle. Jobs and daemons end with it."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="slurm-"))  # paths of sockets may have 107 characters
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o711)  # munged wants its socket where every user may reach it
        names = tuple(f"node{i + 1}" for i in range(nodes))
        _configure(directory, names)
        made = Slurm(names, {"SLURM_CONF": os.fspath(directory / "slurm.conf"), "PATH": PATH}, directory)
        stack.callback(_end_what_is_left, made)
        _start(stack, made, "munged", *_munge(directory))
        _wait(made, "munged has a socket", (directory / "munge.socket").exists)
        _start(stack, made, "slurmctld", "slurmctld", "-D")
        _wait(made, "slurmctld answers", lambda: "UP" in made.run("scontrol", "ping"))
        for name in names:
            _start(stack, made, name, "slurmd", "-D", "-N", name)
        stack.callback(_cancel_jobs, made)
        _wait(made, "all nodes are idle", lambda: set(made.states().values()) == {"idle"})
        yield made


def _configure(directory: Path, names: tuple[str, ...]) -> None:
    controller, *ports = free_ports(1 + len(names))
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    text = _CONFIGURATION.format(
        host=host, controller=controller, user=user, directory=directory, partition=PARTITION
    )
    for name, port in zip(names, ports, strict=True):
        text += _NODE.format(name=name, host=host, port=port, cpus=CPUS)
    (directory / "slurm.conf").write_text(text)
    key = directory / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def _munge(directory: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return ["munged", "--foreground", *(f"--{name}={directory}/munge.{end}" for name, end in files.items())]


def _start(stack: ExitStack, made: Slurm, name: str, *command: str) -> None:
    """Run a daemon until the stack ends. What it says goes to NAME.out."""
    with open(made.directory / f"{name}.out", "wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | made.environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    stack.callback(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(made: Slurm, what: str, is_so: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(AssertionError):  # of a command to which slurmctld does not answer yet
            if is_so():
                return
        time.sleep(0.1)
    said = "".join(
        f"\n{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in made.directory.glob("*.out")
    )
    raise TimeoutError(f"SLURM: after {seconds:g} s it was not so that {what}{said}")


def _cancel_jobs(made: Slurm) -> None:
    if jobs := made.jobs():
        made.run("scancel", *jobs)
        _wait(made, "no job is left", lambda: not made.jobs())


def _end_what_is_left(made: Slurm) -> None:
    """Steps and jobs are no children of slurmd, and go on without it. Nor are they ours, as others may be."""
    for process in set(made.processes()) - set(psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
