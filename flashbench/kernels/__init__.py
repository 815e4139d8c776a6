"""The attention kernels. Their arguments are addresses and numbers; they do no I/O and no validation."""

import flashbench.codegen  # noqa: F401 - it checks Numba's settings before a module of this package imports Numba
