"""The results file's schema: one record is complete in itself, every table can be made from it alone."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from flashbench.problem import AttentionProblem, Direction

# Version history
#   1  2026-11: first version.
SCHEMA_VERSION = 1

Kind = Literal["profile", "sweep", "documented"]
# too_large: predicted not to fit in memory and therefore not tried; out_of_memory: tried, and it did not.
Status = Literal["ok", "unsupported", "too_large", "out_of_memory", "timeout", "crashed", "wrong"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all: immutable, named fields only, an unknown field is an error."""


class Machine(Record, frozen=True, kw_only=True):
    """Where the figures come from; None = could not be told."""

    host: str
    cpu: str
    microarchitecture: str | None = None
    isa: str | None = None  # the SIMD path the kernels took: avx512, avx2, neon, generic
    cores: int | None = None  # that this process may run on
    memory_bytes: int | None = None
    caches: dict[str, int] = {}  # bytes: {"L1d": ..., "L2": ..., "L3": ...}, one core's view
    governor: str | None = None
    load: float | None = None  # 1-minute load average before the run
    peak_gflops: dict[str, float] = {}  # measured in this run: {"float64": ...} on `peak_threads` threads
    peak_threads: int | None = None
    os: str | None = None
    python: str | None = None
    libraries: dict[str, str] = {}  # {"numpy": "2.4.6", ...}


class Time(Record, frozen=True, kw_only=True):
    """Nanoseconds of single calls; one list per burst, in the order taken, nothing dropped.

    Bursts stay apart because the calls of one share its clock speed: only the spread between bursts
    tells how sure a comparison with another file is (see `studies.verdict`).
    """

    samples_ns: list[list[int]]
    median_ns: float  # of all samples
    low_ns: float  # 25th percentile
    high_ns: float  # 75th percentile


class Memory(Record, frozen=True, kw_only=True):
    """Bytes of one call, measured by memray in a process that is not timed."""

    workspace_peak_bytes: int  # peak of what the call allocated, beyond its inputs and outputs
    expected_workspace_bytes: int | None  # computed before the run; None: the engine does not say
    input_bytes: int
    output_bytes: int
    resident_delta_bytes: int | None = None


class Accuracy(Record, frozen=True, kw_only=True):
    """Largest absolute difference from the float64 oracle, over o or over dq, dk and dv."""

    max_abs_error: float | None  # None: not a finite number, which JSON cannot hold
    tolerance: float
    rows_checked: int  # query rows compared; large problems are checked on a sample of heads


class Rates(Record, frozen=True, kw_only=True):
    gflops: float  # problem.flops(direction) / median time
    percent_of_peak: float | None  # of the FMA peak measured in the same run with the same threads


class Measurement(Record, frozen=True, kw_only=True):
    """One engine on one problem in one direction."""

    problem: AttentionProblem
    engine: str
    direction: Direction
    block_q: int | None  # as used; None: the engine has no blocks
    block_k: int | None
    threads: int | None
    status: Status
    reason: str | None = None  # one line, unless status is ok
    # As asked for, which block_q and block_k, as used, need not be. None: the engine has no blocks.
    blocks_asked: tuple[int, int] | Literal["auto"] | None = None
    time: Time | None = None
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    rates: Rates | None = None


class Results(Record, frozen=True, kw_only=True):
    """A results file."""

    schema_version: int
    kind: Kind
    created: str  # ISO 8601 with zone
    flashbench_version: str
    command: list[str]  # as typed
    config: dict[str, Any]  # every setting as used, defaults filled in
    machine: Machine
    measurements: list[Measurement]
