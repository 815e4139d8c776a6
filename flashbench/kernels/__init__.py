"""Compiled kernels: arrays and scalars in, no I/O and no validation. Numba and llvmlite live here only."""

from flashbench.system.numba_settings import check_numba_settings

check_numba_settings()  # here: before any module of this package imports Numba
