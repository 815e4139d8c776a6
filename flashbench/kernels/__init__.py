"""Compiled kernels: arrays and scalars in, no I/O and no validation. Numba and llvmlite live here only."""
