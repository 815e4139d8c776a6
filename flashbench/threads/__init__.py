"""Who runs a kernel: a pool of threads of our own, or the program's OpenMP."""

import flashbench.codegen  # noqa: F401 - it checks Numba's settings before a module of this package imports Numba
