"""The threads that run our kernels in a PyTorch program, and their number."""

from __future__ import annotations

import functools
from pathlib import Path

import threadpoolctl
import torch

from flashbench.system.cores import available_cores
from flashbench.threads.openmp import OpenMPTeam, usable
from flashbench.threads.pool import Lent


def num_threads() -> int:
    """Threads of a call: as many as PyTorch's own operators use (`torch.set_num_threads`, $OMP_NUM_THREADS),
    but at most the cores of this process ($NUMBA_NUM_THREADS lowers that).
    """
    wanted: int = torch.get_num_threads()
    return min(wanted, available_cores())


def on_torch_threads() -> Lent:
    """Within the block, calls with as many threads as PyTorch run on PyTorch's own threads, if they can."""
    return Lent(torch_team(), torch.get_num_threads())


def torch_team() -> OpenMPTeam | None:
    """The thread team of PyTorch's OpenMP runtime; None if that is not libgomp, and after a fork."""
    return _team() if usable() else None


@functools.cache
def _team() -> OpenMPTeam | None:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    paths = [info["filepath"] for info in threadpoolctl.threadpool_info() if info["prefix"] == "libgomp"]
    # The copy in PyTorch's wheel is PyTorch's, even if other copies are loaded.
    home = Path(torch.__file__).resolve().parent
    own = [path for path in paths if Path(path).is_relative_to(home)] or paths
    if len(own) != 1:
        return None
    try:
        return OpenMPTeam(own[0])
    except (OSError, AttributeError):  # not loadable, or without the entry points
        return None
