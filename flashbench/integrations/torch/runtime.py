"""How many threads our kernels take beside PyTorch's."""

from __future__ import annotations

import torch

from flashbench.kernels.threads import available_cores


def num_threads() -> int:
    """Threads of a call: as many as PyTorch's own operators take (`torch.set_num_threads`,
    $OMP_NUM_THREADS), and no more than this process has cores ($NUMBA_NUM_THREADS lowers it).
    """
    wanted: int = torch.get_num_threads()
    return min(wanted, available_cores())
