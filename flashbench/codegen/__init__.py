"""Makes machine code with Numba and LLVM: vectors, pointers, the cache. It does not know attention."""

from flashbench.system.numba_settings import check_numba_settings

check_numba_settings()  # here, before any module of this package imports Numba
