"""Which threads our kernels run on beside PyTorch's, and how many."""

from __future__ import annotations

import functools
from pathlib import Path

import threadpoolctl
import torch

from flashbench.system.cores import available_cores
from flashbench.threads.openmp import OpenMPTeam, usable
from flashbench.threads.pool import Lent


def num_threads() -> int:
    """Threads of a call: as many as PyTorch's own operators take (`torch.set_num_threads`,
    $OMP_NUM_THREADS), and no more than this process has cores ($NUMBA_NUM_THREADS lowers it).
    """
    wanted: int = torch.get_num_threads()
    return min(wanted, available_cores())


def on_torch_threads() -> Lent:
    """Within the block, calls that take as many threads as PyTorch run on PyTorch's, where that can be."""
    return Lent(torch_team(), torch.get_num_threads())


def torch_team() -> OpenMPTeam | None:
    """The team of PyTorch's OpenMP runtime; None where that is not libgomp, and after a fork."""
    return _team() if usable() else None


@functools.cache
def _team() -> OpenMPTeam | None:
    if "ATen parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    paths = [info["filepath"] for info in threadpoolctl.threadpool_info() if info["prefix"] == "libgomp"]
    # What PyTorch's wheels bring is PyTorch's, whatever else is loaded.
    home = Path(torch.__file__).resolve().parent
    own = [path for path in paths if Path(path).is_relative_to(home)] or paths
    if len(own) != 1:
        return None
    try:
        return OpenMPTeam(own[0])
    except (OSError, AttributeError):  # without the entry points
        return None
