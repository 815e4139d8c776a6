"""Exact attention on dask arrays that are chunked along the sequence, for sequences that no machine holds.

Needs the extra `cluster`: pip install 'flashbench[cluster]'.
"""

from __future__ import annotations

from flashbench.integrations.requirements import missing

try:
    import dask as _dask  # noqa: F401
except ModuleNotFoundError as error:
    raise missing(error, "flashbench.integrations.dask", "cluster") from error

from flashbench.chunks.memory import WorkerMemory, worker_memory
from flashbench.integrations.dask.attention import attention, attention_backward
from flashbench.integrations.dask.placement import Placement

__all__ = ["Placement", "WorkerMemory", "attention", "attention_backward", "worker_memory"]
