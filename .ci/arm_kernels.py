"""Compile the kernels for 64-bit Arm on this machine, into the cache of an emulated one.

    python .ci/arm_kernels.py PYTHON_VERSION DTYPE

LLVM compiles for Arm anywhere, ten times as fast as under emulation. The cache names machine code by sources,
versions, target and signature, so the emulated process finds it there; what it does not find, it compiles.

PYTHON_VERSION: of the emulated Python, such as 3.11.2. NUMBA_CPU_NAME must be set, and FLASHBENCH_CACHE_DIR;
Numba and llvmlite must have the versions of the emulated ones.
"""

import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm

TRIPLE = "aarch64-unknown-linux-gnu"


def become_arm(python_version: str) -> None:
    """Let Numba and flashbench take this process for one on Arm. Its machine code must not be called."""
    platform.machine = lambda: "aarch64"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = llvm.get_default_triple = lambda: TRIPLE
    llvm.Target.from_default_triple = classmethod(lambda cls: cls.from_triple(TRIPLE))
    from flashbench.codegen import compiled

    version = tuple(int(part) for part in python_version.split("."))
    if version[:2] != sys.version_info[:2]:
        sys.exit(
            f"arm_kernels.py needs Python {version[0]}.{version[1]}: this is {platform.python_version()}"
        )
    compiled._VERSIONS = (*compiled._VERSIONS[:2], version)


def kernels(dtype: Any) -> Iterator[tuple[Any, int]]:
    """(kernel, number of its arguments) of the path that computes the dtype on Arm."""
    from flashbench.kernels.flash.backward import flash_backward
    from flashbench.kernels.flash.decode import flash_decode
    from flashbench.kernels.flash.forward import flash_forward
    from flashbench.kernels.flash.mask_gradient import flash_mask_gradient
    from flashbench.kernels.products.paths import PATHS, fastest_path
    from flashbench.kernels.standard.mask_gradient import standard_mask_gradient
    from flashbench.kernels.standard.stages import standard_backward, standard_forward

    path = PATHS[fastest_path(dtype)]
    for flash in (flash_forward, flash_backward, flash_mask_gradient):
        yield flash(path.product, dtype), 2
    yield flash_decode(path.decode, dtype), 2
    for standard in (standard_forward, standard_backward):
        yield standard(dtype), 3
    yield standard_mask_gradient(dtype), 4


def main(python_version: str, dtype: str) -> None:
    become_arm(python_version)
    from numba import types

    from flashbench.codegen.isa import ISA

    assert ISA.name == "neon", ISA.name
    for kernel, arguments in kernels(dtype):
        kernel.compile((types.intp,) * arguments)
        print(kernel.py_func.__qualname__, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not os.environ.get("NUMBA_CPU_NAME"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
