"""The target CPU's vectors: width, registers, and the tile sizes that fit them."""

from __future__ import annotations

import functools
import os
import platform
import tempfile
from collections.abc import Iterable
from typing import NamedTuple

import llvmlite.binding as llvm
from archspec.cpu import TARGETS
from numba.core import config

from flashbench.errors import ConfigError


class Isa(NamedTuple):
    """A SIMD instruction set, as kernels use it.

    tile_rows[v]: rows of a matrix-product tile that is v vectors wide. Its registers hold rows * v
    accumulators, v vectors of B and one broadcast of A. They must fit the register file, and rows * v
    accumulators must cover the latency of the multiply-add.
    """

    name: str
    vector_bytes: int
    tile_rows: dict[int, int]
    has_fma: bool

    def lanes(self, itemsize: int) -> int:
        """Number of elements in one vector."""
        return self.vector_bytes // itemsize

    @property
    def max_vectors(self) -> int:
        """Width of the widest tile, in vectors."""
        return max(self.tile_rows)


AVX512 = Isa("avx512", 64, {4: 6, 3: 8, 2: 12, 1: 14}, has_fma=True)  # 32 registers
AVX2 = Isa("avx2", 32, {2: 6, 1: 12}, has_fma=True)  # 16 registers
NEON = Isa("neon", 16, {4: 6, 3: 8, 2: 12, 1: 14}, has_fma=True)  # 32 registers
# Baseline vectors of any other CPU (SSE2 on x86-64). Without a fused multiply-add each product needs its own
# register, so tiles are smaller.
GENERIC = Isa("generic", 16, {2: 4, 1: 8}, has_fma=False)

_LLVM_TO_ARCHSPEC = {"znver1": "zen", "znver2": "zen2", "znver3": "zen3", "znver4": "zen4", "znver5": "zen5"}


# Features that an x86 path's machine code uses. A CPU without them would end the process.
_NEEDED = {"avx512": {"avx512f", "avx512vl", "avx512dq"}, "avx2": {"avx2", "fma"}}


def _letters(feature: str) -> str:
    return feature.translate({ord(mark): None for mark in "-_."})


@functools.cache
def _archspec_names() -> dict[str, str]:
    """archspec's names of features, by their letters."""
    return {_letters(name): name for target in TARGETS.values() for name in target.features}


def _by_archspec(features: Iterable[str]) -> set[str]:
    """LLVM's names as archspec's, which are those of /proc/cpuinfo: avx512bf16 is avx512_bf16."""
    known = _archspec_names()
    return {known.get(_letters(name), name) for name in features}


def _host_features() -> set[str]:
    return _by_archspec(name for name, present in llvm.get_host_cpu_features().items() if present)


def cpu_features() -> set[str]:
    """Features of the CPU that Numba compiles for: NUMBA_CPU_FEATURES, NUMBA_CPU_NAME's, or this CPU's.

    By archspec's names.
    """
    if config.CPU_FEATURES:
        return _by_archspec(flag[1:] for flag in config.CPU_FEATURES.split(",") if flag.startswith("+"))
    if not config.CPU_NAME or config.CPU_NAME == "host":
        return _host_features()
    name = _LLVM_TO_ARCHSPEC.get(config.CPU_NAME, config.CPU_NAME.replace("-", "_"))
    return set(TARGETS[name].features) if name in TARGETS else set()


def usable_features() -> set[str]:
    """Features that both the target and this CPU have."""
    return cpu_features() & _host_features()


def _isa_of(features: set[str]) -> Isa:
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return NEON
    return next((isa for isa in (AVX512, AVX2) if _NEEDED[isa.name] <= features), GENERIC)


def host_isa() -> Isa:
    """The instruction set of this CPU, independent of NUMBA_CPU_NAME."""
    return _isa_of(_host_features())


def _cpu_name() -> str:
    """LLVM's name of the CPU that Numba compiles for."""
    name = config.CPU_NAME
    return name if name and name != "host" else str(llvm.get_host_cpu_name())


def _check_target() -> None:
    """Raise ConfigError for a target that LLVM does not know, or that this CPU cannot run.

    For an unknown target, LLVM would compile for another one and report that on stderr for each function.
    Code for other CPUs would end the process.
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
    lacking = _NEEDED.get(_isa_of(cpu_features()).name, set()) - _host_features()
    if lacking:
        raise ConfigError(
            f"NUMBA_CPU_NAME={name or ''} NUMBA_CPU_FEATURES={features or ''} ask for "
            f"{', '.join(sorted(lacking))}, which this CPU does not have",
            hint="unset both to compile for this CPU",
        )


def _complaint(name: str, features: str) -> str:
    """LLVM's first complaint about the target, or "". LLVM reports it only on stderr."""
    try:
        stderr = os.dup(2)
    except OSError:  # stderr is closed: LLVM cannot report anything
        return ""
    with tempfile.TemporaryFile() as captured:
        try:
            os.dup2(captured.fileno(), 2)
            llvm.initialize_native_target()
            llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        captured.seek(0)
        lines = captured.read().decode(errors="replace").splitlines()
    return next((line for line in lines if "is not a recognized" in line), "")


_check_target()
ISA = _isa_of(cpu_features())
# Zen 4 takes two cycles for a multiply-add of 64 bytes. That is enough time to load one number per
# multiply-add, as tiles of one vector do. Other CPUs can start two multiply-adds per cycle, but also only two
# loads, so that such a tile waits for its loads.
HALF_RATE = ISA is AVX512 and _cpu_name() == "znver4"
# Whether the target has instructions between float16 and float32.
CONVERTS_FLOAT16 = ISA in (AVX512, NEON) or "f16c" in cpu_features()
# Whether it has instructions that round float32 to bfloat16, and multiply pairs of bfloat16.
HAS_BFLOAT16 = ISA is AVX512 and "avx512_bf16" in cpu_features() & _host_features()
# AMD's CPUs start one VDPBF16PS of 64 bytes per cycle. On Intel's (measured: Emerald Rapids) it takes so long
# that float32 multiply-adds of widened numbers are faster.
FAST_DOTS = HAS_BFLOAT16 and _cpu_name().startswith("znver")
