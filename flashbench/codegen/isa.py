"""Which vectors the kernels are compiled for: width, registers and tile sizes, from the target CPU."""

from __future__ import annotations

import os
import platform
import tempfile
from typing import NamedTuple

import llvmlite.binding as llvm
from archspec.cpu import TARGETS
from numba.core import config

from flashbench.errors import ConfigError


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


# What an x86 path's kernels are compiled with, for lack of which a CPU would end the process.
_NEEDED = {"avx512": {"avx512f", "avx512vl", "avx512dq"}, "avx2": {"avx2", "fma"}}


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
    return next((isa for isa in (AVX512, AVX2) if _NEEDED[isa.name] <= features), GENERIC)


def host_isa() -> Isa:
    """What this CPU could do, whatever NUMBA_CPU_NAME says."""
    return _isa_of(_host_features())


def _cpu_name() -> str:
    """LLVM's name of the CPU that Numba compiles for."""
    name = config.CPU_NAME
    return name if name and name != "host" else str(llvm.get_host_cpu_name())


def _check_target() -> None:
    """Refuse a target that LLVM does not know, or this CPU cannot run.

    LLVM would compile for another one, and say so on stderr for each function, or end the process.
    """
    name, features = config.CPU_NAME, config.CPU_FEATURES
    for flag in features.split(",") if features else ():
        if flag[:1] not in ("+", "-"):
            raise ConfigError(
                f"NUMBA_CPU_FEATURES must be flags, + or - before each, commas between, not {features!r}"
            )
    if not features and name in (None, "", "host", "generic"):
        return
    complaint = _complaint(name or "", features or "")
    if complaint:
        setting = "NUMBA_CPU_NAME" if "processor" in complaint else "NUMBA_CPU_FEATURES"
        known = complaint.partition(" (")[0]
        raise ConfigError(f"{setting}: {known}", hint=f"unset {setting} to compile for this CPU")
    lacking = _NEEDED.get(_isa_of(_features()).name, set()) - _host_features()
    if lacking:
        raise ConfigError(
            f"NUMBA_CPU_NAME={name or ''} NUMBA_CPU_FEATURES={features or ''} ask for "
            f"{', '.join(sorted(lacking))}, which this CPU does not have",
            hint="unset both to compile for this CPU",
        )


def _complaint(name: str, features: str) -> str:
    """What LLVM says of the target, which it does on stderr alone: the first line, empty if none."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed: there is nowhere to say it
        return ""
    with tempfile.TemporaryFile() as said:
        try:
            os.dup2(said.fileno(), 2)
            llvm.initialize_native_target()
            llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    return next((line for line in lines if "is not a recognized" in line), "")


_check_target()
ISA = _isa_of(_features())
# Zen 4 takes two cycles for a multiply-add of 64 bytes: time enough to load a number for each, as tiles of
# one vector do. Elsewhere two may start in a cycle, as many as loads, and such a tile waits for its loads.
HALF_RATE = ISA is AVX512 and _cpu_name() == "znver4"
