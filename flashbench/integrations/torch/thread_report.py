"""Reports the threads of PyTorch, flashbench, OpenMP and Numba in this process, and their conflicts."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NamedTuple

import numba
import threadpoolctl
import torch

from flashbench.integrations.torch.runtime import num_threads, torch_team
from flashbench.system.affinity import binding_settings, process_cores
from flashbench.system.cgroup import cpu_quota

_WHOSE = {True: "PyTorch's own", False: "of a pool"}
_SPINNING = "each keeps threads of its own, which spin on the same cores"
_warned_in: int | None = None  # id of the process that has warned
_layer_before_fork: str | None = None  # Numba's threading layer in the parent process


class OpenMP(NamedTuple):
    """A loaded OpenMP runtime."""

    name: str  # library: libgomp, libiomp, libomp
    path: str
    threads: int


class Threads(NamedTuple):
    """The result of `threads`. `print` shows each fact on its own line."""

    torch: int  # threads of PyTorch's operators (torch.set_num_threads, $OMP_NUM_THREADS)
    flashbench: int  # threads of a call of flashbench: PyTorch's number, at most the cores
    omp_num_threads: str | None  # $OMP_NUM_THREADS
    numba_num_threads: str | None  # $NUMBA_NUM_THREADS
    binding: tuple[str, ...]  # settings that bind OpenMP's threads to cores, such as OMP_PROC_BIND=close
    cpu_quota: float | None  # CPU time that control groups allow, in cores; None: no limit
    on_torch_threads: bool  # True: calls from PyTorch run on PyTorch's threads; False: on a pool's
    openmp: tuple[OpenMP, ...]
    numba_layer: str | None  # layer of Numba's own parallel code, if any ran: omp, tbb, workqueue
    problems: tuple[str, ...]  # one line each, with a remedy

    def __str__(self) -> str:
        runtimes = [f"{x.name}, {x.threads} threads, {x.path}" for x in self.openmp]
        rows = [
            ("PyTorch", f"{self.torch} threads"),
            ("flashbench", f"{self.flashbench} threads, {_WHOSE[self.on_torch_threads]}"),
            ("OMP_NUM_THREADS", self.omp_num_threads or "not set"),
            ("NUMBA_NUM_THREADS", self.numba_num_threads or "not set"),
            *(("bound by", setting) for setting in self.binding),
            *(() if self.cpu_quota is None else (("CPU quota", _quota_words(self.cpu_quota)),)),
            *(("OpenMP", runtime) for runtime in runtimes or ["not loaded"]),
            ("Numba's own layer", self.numba_layer or "not launched"),
            *(("problem", problem) for problem in self.problems),
        ]
        return "\n".join(f"{name:<18} {value}" for name, value in rows)


def threads() -> Threads:
    """The threads of this process at this moment: settings, OpenMP runtimes and problems.

    flashbench's kernels have their own thread pool. It sleeps between calls, and a fork's child makes a new
    one. Calls from PyTorch run on PyTorch's threads if these are libgomp's. Idle threads of libgomp spin for
    a while, and would take half of a core from a second set of threads. Numba's parallel code, if a program
    has any, may run on OpenMP too.
    """
    found = Threads(
        torch.get_num_threads(),
        num_threads(),
        os.environ.get("OMP_NUM_THREADS"),
        os.environ.get("NUMBA_NUM_THREADS"),
        tuple(f"{name}={value}" for name, value in binding_settings().items()),
        cpu_quota(),
        torch_team() is not None and torch.get_num_threads() == num_threads() > 1,
        _openmp(),
        _numba_layer(),
        (),
    )
    return found._replace(problems=tuple(_problems(found)))


def warn_of_problems() -> None:
    """Warn of each problem, once per process."""
    global _warned_in
    if _warned_in == os.getpid():
        return
    _warned_in = os.getpid()
    for problem in threads().problems:
        warnings.warn(problem, stacklevel=4)


def _openmp() -> tuple[OpenMP, ...]:
    infos: list[dict[str, Any]] = threadpoolctl.threadpool_info()
    return tuple(
        OpenMP(info["prefix"], info["filepath"], info["num_threads"])
        for info in infos
        if info["user_api"] == "openmp"
    )


def _numba_layer() -> str | None:
    try:
        layer: str = numba.threading_layer()
    except ValueError:  # not launched
        return None
    return layer


def _problems(found: Threads) -> list[str]:
    problems = []
    if len(found.openmp) > 1:
        paths = " and ".join(runtime.path for runtime in found.openmp)
        problems.append(
            f"{len(found.openmp)} OpenMP runtimes in one process, {paths}: {_SPINNING}; install the packages "
            "that bring them from one source, or set OMP_WAIT_POLICY=passive"
        )
    if found.flashbench < found.torch:
        problems.append(
            f"PyTorch takes {found.torch} threads and flashbench {found.flashbench}, which is what "
            f"{_limit(found)} allows: torch.set_num_threads({found.flashbench}), or set OMP_NUM_THREADS and "
            "NUMBA_NUM_THREADS alike"
        )
    if _layer_before_fork == "omp":
        problems.append(
            "this process was forked after Numba's parallel code had run on OpenMP, and must not run such "
            "code: Numba would end it; start processes by 'spawn', or set NUMBA_THREADING_LAYER=workqueue "
            "(flashbench's own kernels work here)"
        )
    elif found.numba_layer == "omp" and sys.platform == "linux":
        problems.append(
            "Numba's parallel code has run on OpenMP here, and must not run in a process forked from now on: "
            "Numba would end it; start processes by 'spawn', or set NUMBA_THREADING_LAYER=workqueue "
            "(flashbench's own kernels work after a fork)"
        )
    return problems


def _limit(found: Threads) -> str:
    if found.numba_num_threads == str(found.flashbench):
        return f"NUMBA_NUM_THREADS={found.numba_num_threads}"
    cores = process_cores()
    if found.cpu_quota is not None and (cores is None or found.flashbench < len(cores)):
        return f"the CPU quota of {_quota_words(found.cpu_quota)}"
    if found.binding:
        return f"the number of cores of this process, with {' and '.join(found.binding)},"
    return "the number of cores of this process"


def _quota_words(quota: float) -> str:
    return f"{quota:.3g} cores' time (cgroup)"


def _note_fork() -> None:
    global _layer_before_fork
    _layer_before_fork = _layer_before_fork or _numba_layer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
