"""Who a worker of Dask is, and whether it would measure what this flashbench measures."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import archspec.cpu

from flashbench.system.node import machine_id, node_name

RESOURCE = "bench"
_COMPARED = {"flashbench": "version of flashbench", "kernels": "kernel hash", "python": "Python"}


def identify(dask_worker: Any = None) -> dict[str, Any]:
    """This process's host and versions. Dask fills in the worker."""
    from flashbench.codegen.compiled import KERNEL_SOURCES  # here: loads Numba

    return {
        "host": node_name(),
        "machine": machine_id(),
        "cpu": archspec.cpu.brand_string() or platform.machine(),
        "flashbench": version("flashbench"),
        "kernels": KERNEL_SOURCES[:12],
        "python": platform.python_version(),
        "resource": 0.0 if dask_worker is None else dask_worker.state.total_resources.get(RESOURCE, 0.0),
    }


def refusal(own: Mapping[str, Any], found: Mapping[str, Any] | BaseException) -> str | None:
    """Why a worker must not measure: its results would be of something else. None: it may.

    found: what `identify` returned there, or raised.

    >>> own = {"flashbench": "1.0", "kernels": "ab12", "python": "3.12.1", "resource": 0}
    >>> refusal(own, own | {"python": "3.11.9", "resource": 1})
    'its Python is 3.11.9, here it is 3.12.1'
    >>> refusal(own, own)
    'it has no resource "bench": start it with --resources bench=1'
    >>> refusal(own, ModuleNotFoundError("No module named 'flashbench'"))
    "its flashbench is another one, or missing: No module named 'flashbench'"
    """
    if isinstance(found, BaseException):
        return f"its flashbench is another one, or missing: {found}"
    for name, word in _COMPARED.items():
        if found[name] != own[name]:
            return f"its {word} is {found[name]}, here it is {own[name]}"
    if found["resource"] < 1:
        return f'it has no resource "{RESOURCE}": start it with --resources {RESOURCE}=1'
    return None
