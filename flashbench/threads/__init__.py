"""Runs kernels on threads: our own pool, or the program's OpenMP threads."""

import flashbench.codegen  # noqa: F401 - it checks Numba's settings before a module of this package imports Numba
