"""Which vectors the kernels are compiled for: width, registers and tile sizes, from the target CPU."""

from __future__ import annotations

import platform
from typing import NamedTuple

import llvmlite.binding as llvm
from archspec.cpu import TARGETS
from numba.core import config


class Isa(NamedTuple):
    """A SIMD instruction set as the kernels see it.

    `tile_rows[v]` is how many rows of v vectors one matrix-product tile keeps in registers: rows * v
    accumulators, v vectors of B and one broadcast of A must fit into the register file, and rows * v
    must cover the latency of the multiply-add.
    """

    name: str
    vector_bytes: int
    tile_rows: dict[int, int]
    has_fma: bool

    def lanes(self, itemsize: int) -> int:
        """Elements of one vector."""
        return self.vector_bytes // itemsize

    @property
    def max_vectors(self) -> int:
        """Widest tile, in vectors."""
        return max(self.tile_rows)


AVX512 = Isa("avx512", 64, {4: 6, 3: 8, 2: 12, 1: 14}, has_fma=True)  # 32 registers
AVX2 = Isa("avx2", 32, {2: 6, 1: 12}, has_fma=True)  # 16 registers
NEON = Isa("neon", 16, {4: 6, 3: 8, 2: 12, 1: 14}, has_fma=True)  # 32 registers
# Baseline vectors of any other CPU (SSE2 on x86-64). Without a fused multiply-add a product needs a
# register of its own, so tiles are smaller.
GENERIC = Isa("generic", 16, {2: 4, 1: 8}, has_fma=False)

_LLVM_TO_ARCHSPEC = {"znver1": "zen", "znver2": "zen2", "znver3": "zen3", "znver4": "zen4", "znver5": "zen5"}


def _host_features() -> set[str]:
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def _features() -> set[str]:
    """Features of the CPU that Numba compiles for, which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES override."""
    if config.CPU_FEATURES:
        return {flag[1:] for flag in config.CPU_FEATURES.split(",") if flag.startswith("+")}
    if not config.CPU_NAME or config.CPU_NAME == "host":
        return _host_features()
    name = _LLVM_TO_ARCHSPEC.get(config.CPU_NAME, config.CPU_NAME.replace("-", "_"))
    return set(TARGETS[name].features) if name in TARGETS else set()


def _isa_of(features: set[str]) -> Isa:
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return NEON
    if {"avx512f", "avx512vl", "avx512dq"} <= features:
        return AVX512
    if {"avx2", "fma"} <= features:
        return AVX2
    return GENERIC


def host_isa() -> Isa:
    """What this CPU could do, whatever NUMBA_CPU_NAME says."""
    return _isa_of(_host_features())


def _cpu_name() -> str:
    """LLVM's name of the CPU that Numba compiles for."""
    name = config.CPU_NAME
    return name if name and name != "host" else str(llvm.get_host_cpu_name())


ISA = _isa_of(_features())
# Zen 4 takes two cycles for a multiply-add of 64 bytes: time enough to load a number for each, as tiles of
# one vector do. Elsewhere two may start in a cycle, as many as loads, and such a tile waits for its loads.
HALF_RATE = ISA is AVX512 and _cpu_name() == "znver4"
