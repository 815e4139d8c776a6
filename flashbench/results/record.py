"""The results file's schema: one record is complete in itself, every table can be made from it alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import msgspec

from flashbench.problem import AttentionProblem, Direction
from flashbench.results.one_line import plain_texts

# Version history: `results.upgrade` reads every older one. A new kind of file, which older versions refuse by
# its name, is no new version: 2 has training steps since 2026-11-25, and verdicts between engines since then.
#   2  2026-11: samples are one list per process (were: per burst of one process); minimum and outliers of a
#      time; which instrument measured memory; the kernel that ran, energy, disturbance and side of a
#      measurement; processes, sides, duels, warnings and `complete` of a file; more of the machine.
#   1  2026-11: first version.
SCHEMA_VERSION = 2

Kind = Literal["profile", "sweep", "duel", "machine", "documented", "train"]
Side = Literal["a", "b"]
# improved and regressed are of two versions of one engine, a_faster and b_faster of two engines. failed: a
# side has no time that counts, as it crashed, ran out of memory or time, is wrong, unsupported or too large.
Verdict = Literal["improved", "same", "regressed", "a_faster", "b_faster", "inconclusive", "failed"]
# too_large: predicted not to fit in memory and therefore not tried; out_of_memory: tried, and it did not.
Status = Literal["ok", "unsupported", "too_large", "out_of_memory", "timeout", "crashed", "wrong"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all: immutable, named fields only, an unknown field is an error, every text one plain line.

    Wherever a text comes from, a plug-in, an exception or a file of others: no reader of a record has to
    think of line breaks and control characters.
    """

    def __post_init__(self) -> None:
        for name in _fields_with_text(type(self)):
            value = getattr(self, name)
            if value:
                msgspec.structs.force_setattr(self, name, plain_texts(value))


@cache
def _fields_with_text(kind: type[Record]) -> tuple[str, ...]:
    """All but numbers and words of a fixed choice: a file may hold a million samples."""
    return tuple(name for name, hint in kind.__annotations__.items() if "str" in hint or "Any" in hint)


class Machine(Record, frozen=True, kw_only=True):
    """Where the figures come from; None = could not be told."""

    host: str
    cpu: str
    microarchitecture: str | None = None
    isa: str | None = None  # the SIMD path the kernels took: avx512, avx2, neon, generic
    cores: int | None = None  # worth a thread each: of its affinity, quota and NUMBA_NUM_THREADS the least
    affinity: list[int] | None = None  # numbers of those that this process may run on
    cpu_quota: float | None = None  # cores' worth of CPU time that its control groups allow; None: no limit
    binding: dict[str, str] = {}  # {"OMP_PROC_BIND": "close"}: by which OpenMP binds threads to cores
    threads_per_core: int | None = None
    virtual: bool | None = None  # under a hypervisor
    memory_bytes: int | None = None
    swap_used_bytes: int | None = None
    caches: dict[str, int] = {}  # bytes: {"L1d": ..., "L2": ..., "L3": ...}, one core's view
    governor: str | None = None
    boost: bool | None = None  # whether clocks may rise above the nominal one
    load: float | None = None  # 1-minute load average before the run
    others_cores: float | None = None  # cores kept busy by other processes just before the run
    steal_percent: float | None = None  # of CPU time, taken by the hypervisor for others since boot
    noise_floor: float | None = None  # smallest change that can be told here (0.02: 2 %), from duel --aa
    read_bandwidth_gbps: float | None = None  # 10^9 bytes a second, measured on `peak_threads` threads
    peak_gflops: dict[str, float] = {}  # measured in this run: {"float64": ...} on `peak_threads` threads
    peak_threads: int | None = None
    os: str | None = None
    python: str | None = None
    libraries: dict[str, str] = {}  # {"numpy": "2.4.6", ...}


class Threadpool(Record, frozen=True, kw_only=True):
    """A native thread pool in an engine's process, as threadpoolctl sees it."""

    user_api: str  # blas, openmp
    internal_api: str  # openblas, mkl, libgomp, ...
    num_threads: int
    version: str | None = None
    threading_layer: str | None = None
    architecture: str | None = None


class Process(Record, frozen=True, kw_only=True):
    """The processes of one engine (or of one side of a duel): what their libraries were told and found."""

    python: str  # the interpreter's path
    python_version: str
    flashbench_version: str
    environment: dict[str, str]  # thread settings, as set before anything was imported
    threadpools: list[Threadpool] = []
    libraries: dict[str, str] = {}


class Time(Record, frozen=True, kw_only=True):
    """Nanoseconds of single calls; one list per process, in the order taken, nothing dropped.

    Processes stay apart because the calls of one share its memory layout, its cores and its clock speed:
    only the spread between processes tells how sure a comparison is (see `measure.statistics`).
    """

    samples_ns: list[list[int]]
    median_ns: float  # of all samples
    low_ns: float  # 25th percentile
    high_ns: float  # 75th percentile
    minimum_ns: float | None = None  # None: a file of schema_version 1 without samples
    outliers: int = 0  # samples beyond Tukey's outer fences: counted, not dropped


class Memory(Record, frozen=True, kw_only=True):
    """Bytes of one call, measured in a fresh process that is not timed: three views, side by side."""

    workspace_peak_bytes: int  # peak of what the call allocated, beyond its inputs and outputs
    expected_workspace_bytes: int | None  # computed before the run; None: the engine does not say
    input_bytes: int
    output_bytes: int
    resident_delta_bytes: int | None = None  # growth of the process, outputs included
    instrument: Literal["memray", "resident"] = "memray"  # what workspace_peak_bytes comes from


class Disturbance(Record, frozen=True, kw_only=True):
    """What else the machine did while a measurement was timed, and how far its times moved."""

    moved: float  # largest over smallest median of its processes, less 1
    others_cores: float | None = None  # cores kept busy by other processes
    steal_percent: float | None = None  # of CPU time, taken by the hypervisor for others
    throttled_periods: int | None = None  # in which a control group's CPU quota was used up


class Accuracy(Record, frozen=True, kw_only=True):
    """Largest absolute difference from the float64 oracle, over o or over dq, dk and dv."""

    max_abs_error: float | None  # None: not a finite number, which JSON cannot hold
    tolerance: float
    rows_checked: int  # query rows compared; large problems are checked on a sample of heads


class Rates(Record, frozen=True, kw_only=True):
    gflops: float  # problem.flops(direction) / median time
    percent_of_peak: float | None  # of the FMA peak measured in the same run with the same threads
    # Of few queries, which memory limits: 10^9 bytes of k and v a second, those that a query sees.
    gbps: float | None = None
    percent_of_bandwidth: float | None = None  # of the read bandwidth measured in the same run


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
    side: Side | None = None  # in a duel
    kernel: str | None = None  # which of its kernels the engine ran, where it has several
    note: str | None = None  # one line on what ran, such as a fallback
    time: Time | None = None
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    rates: Rates | None = None
    energy_joules: float | None = None  # of one call, package and memory; None: no counter to read
    disturbance: Disturbance | None = None


class Duel(Record, frozen=True, kw_only=True):
    """B against A on one problem: paired by rounds, each of a fresh process a side in random order."""

    a: int  # places in `Results.measurements`
    b: int
    ratio: float | None  # exp of the pseudo-median over rounds of ln(B / A); None: a side gave no time
    low: float | None  # bootstrap interval over rounds at `confidence`
    high: float | None
    confidence: float | None
    p_value: float | None  # exact sign-flip test of no difference
    p_holm: float | None  # the same, adjusted for the number of duels in the file
    threshold: float  # a change up to this is the same
    orders: list[Literal["ab", "ba"]]  # who led, round by round
    looks: int  # how often the rounds so far were judged
    verdict: Verdict
    reason: str | None = None  # one line, where the figures do not say it


class TrainingProcess(Record, frozen=True, kw_only=True):
    """Medians of one process's steps; a run that is resumed goes on from these."""

    forward_ns: float
    backward_ns: float
    optimizer_ns: float
    attention_forward_ns: float | None = None
    attention_backward_ns: float | None = None
    attention_share: float | None = None


class TrainingStep(Record, frozen=True, kw_only=True):
    """One model at one context length with one attention, end to end."""

    model: str  # as neuralforecast names it, or "Informer (full attention)" for a variant: another model
    attention: str  # flash, standard, torch-flash, torch-math; original: the model's own code
    context_length: int
    windows: int  # of a step
    status: Status
    reason: str | None = None  # one line, unless status is ok
    data: str | None = None  # sf-temps, airpassengers, synthetic, or the user's file
    series: int | None = None
    parameters: int | None = None  # numbers that the optimizer changes
    buffer_bytes: int | None = None  # what the model keeps beside them, such as masks
    threads: int | None = None
    time: Time | None = None  # of whole steps
    # Medians of the steps timed, apart.
    forward_ns: float | None = None
    backward_ns: float | None = None
    optimizer_ns: float | None = None
    # Within attention, of a step, measured by marks in further steps; None: the model's own code.
    attention_forward_ns: float | None = None
    attention_backward_ns: float | None = None
    attention_share: float | None = None  # of the step
    attention_calls: int | None = None
    # Of the largest call: batch, heads, seqlen_q, seqlen_k, head_dim, head_dim_v.
    attention_shape: list[int] | None = None
    peak_bytes: int | None = None  # of one step beyond the model, its inputs and its gradients
    note: str | None = None  # one line on what ran, such as a fallback
    losses: list[float] = []  # of the first steps, the same in every arm but for rounding
    processes: list[TrainingProcess] = []  # one a process of `time`, whose medians the figures above are


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
    processes: dict[str, Process] = {}  # by engine, in a duel by side
    duels: list[Duel] = []
    training: list[TrainingStep] = []
    warnings: list[str] = []  # one line each: what a reader should know or do
    complete: bool = True  # False: more was asked for than is here yet; --resume goes on
