"""How machine code is made from Numba and LLVM: vectors, pointers, the cache. It knows no attention."""

from flashbench.system.numba_settings import check_numba_settings

check_numba_settings()  # here: before any module of this package imports Numba
