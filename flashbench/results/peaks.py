"""Measured peaks by dtype and path, and which of them a measurement is compared with."""

from __future__ import annotations

from flashbench.dtypes import Dtype
from flashbench.results.record import Machine, Measurement

# The path of plain multiply-adds. Its peaks have the dtype alone as their name, as before there were paths.
PLAIN = "fma"


def peak_name(dtype: Dtype, path: str | None) -> str:
    """The name of a path's peak in `Machine.peak_gflops`.

    >>> peak_name("float32", "fma"), peak_name("bfloat16", "amx")
    ('float32', 'bfloat16/amx')
    """
    return dtype if path in (None, PLAIN) else f"{dtype}/{path}"


def peak_of(machine: Machine, row: Measurement) -> float | None:
    """GFLOP/s of the row's path. Without a path: of the fastest path measured in its dtype. None: unknown."""
    return path_peak(machine, row.problem.dtype, row.isa_path)


def path_peak(machine: Machine, dtype: Dtype, path: str | None) -> float | None:
    """`peak_of` for a dtype and a path."""
    if path is not None:
        return machine.peak_gflops.get(peak_name(dtype, path))
    measured = (
        gflops
        for name, gflops in machine.peak_gflops.items()
        if name == dtype or name.startswith(f"{dtype}/")
    )
    return max(measured, default=None)
