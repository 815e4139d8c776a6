"""The results file's schema. A record is complete: every table can be made from it alone."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import msgspec

from flashbench.problem import AttentionProblem, Direction
from flashbench.results.one_line import plain_texts

# Version history: `results.upgrade` reads every older version. A new kind of file needs no new version, for
# older releases refuse the kind by its name. So version 2 has training steps, and verdicts between engines,
# since 2026-11-25, and tests of inference and hosts since 2026-11-30.
#   2  2026-11: samples are one list per process (were: per burst of one process); minimum and outliers of a
#      time; which instrument measured memory; the kernel that ran, energy, disturbance and side of a
#      measurement; processes, sides, duels, warnings and `complete` of a file; more of the machine.
#   1  2026-11: first version.
SCHEMA_VERSION = 2

Kind = Literal["profile", "sweep", "duel", "machine", "documented", "train", "infer"]
Side = Literal["a", "b"]
# improved and regressed compare two versions of one engine, a_faster and b_faster two engines. failed: a side
# has no valid time, because it crashed, ran out of memory or time, or is wrong, unsupported or too large.
Verdict = Literal["improved", "same", "regressed", "a_faster", "b_faster", "inconclusive", "failed"]
# too_large: predicted not to fit in memory, so not tried. out_of_memory: tried, and it did not fit.
Status = Literal["ok", "unsupported", "too_large", "out_of_memory", "timeout", "crashed", "wrong"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, named fields, no unknown fields, every text one plain line.

    Texts may come from a plug-in, an exception or a foreign file. Readers of a record need not handle line
    breaks and control characters.
    """

    def __post_init__(self) -> None:
        for name in _fields_with_text(type(self)):
            value = getattr(self, name)
            if value:
                msgspec.structs.force_setattr(self, name, plain_texts(value))


@cache
def _fields_with_text(kind: type[Record]) -> tuple[str, ...]:
    """Only fields with free text: a file may hold a million samples, and checking numbers takes time."""
    return tuple(name for name, hint in kind.__annotations__.items() if "str" in hint or "Any" in hint)


class NumaNode(Record, frozen=True, kw_only=True):
    """CPUs and the memory next to them. A node without CPUs is memory alone."""

    number: int
    cpus: list[int]
    memory_bytes: int | None = None


class Machine(Record, frozen=True, kw_only=True):
    """Where the figures come from; None: unknown."""

    host: str
    cpu: str
    microarchitecture: str | None = None
    isa: str | None = None  # vectors that the kernels used: avx512, avx2, neon, generic
    paths: dict[str, str] = {}  # the path that each dtype takes: {"bfloat16": "amx"}; only of kind "machine"
    paths_lacking: dict[str, str] = {}  # why this CPU has not the others: {"amx": "this CPU lacks amx_bf16"}
    cores: int | None = None  # worth a thread each: the least of affinity, quota and NUMBA_NUM_THREADS
    affinity: list[int] | None = None  # numbers of the cores that this process may run on
    cpu_quota: float | None = None  # cores' worth of CPU time that its control groups allow; None: no limit
    binding: dict[str, str] = {}  # how OpenMP binds threads to cores: {"OMP_PROC_BIND": "close"}
    threads_per_core: int | None = None
    virtual: bool | None = None  # under a hypervisor
    memory_bytes: int | None = None
    numa_nodes: list[NumaNode] = []  # empty: the system does not tell
    swap_used_bytes: int | None = None
    caches: dict[str, int] = {}  # bytes: {"L1d": ..., "L2": ..., "L3": ...}, one core's view
    governor: str | None = None
    boost: bool | None = None  # whether clocks may rise above the nominal one
    load: float | None = None  # 1-minute load average before the run
    others_cores: float | None = None  # cores kept busy by other processes just before the run
    steal_percent: float | None = None  # of CPU time, given by the hypervisor to other guests since boot
    noise_floor: float | None = None  # smallest change that a duel detects here (0.02: 2 %), from duel --aa
    read_bandwidth_gbps: float | None = None  # 10^9 bytes a second, measured on `peak_threads` threads
    # Measured in this run on `peak_threads` threads, by `results.peaks.peak_name`: {"float64": 117.0,
    # "bfloat16/amx": 2250.0}.
    peak_gflops: dict[str, float] = {}
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
    """The processes of one engine (or of one side of a duel): their settings, libraries and thread pools."""

    python: str  # the interpreter's path
    python_version: str
    flashbench_version: str
    environment: dict[str, str]  # thread settings, as set before anything was imported
    threadpools: list[Threadpool] = []
    libraries: dict[str, str] = {}


class Time(Record, frozen=True, kw_only=True):
    """Nanoseconds of single calls; one list per process, in the order taken, nothing dropped.

    Calls of one process share its memory layout, its cores and its clock speed. So processes stay apart: only
    the spread between them shows how sure a comparison is (see `measure.statistics`).
    """

    samples_ns: list[list[int]]
    median_ns: float  # of all samples
    low_ns: float  # 25th percentile
    high_ns: float  # 75th percentile
    minimum_ns: float | None = None  # None: a file of schema_version 1 without samples
    outliers: int = 0  # samples beyond Tukey's outer fences: counted, not dropped


class Memory(Record, frozen=True, kw_only=True):
    """Bytes of one call, measured three ways in a fresh process that is not timed."""

    workspace_peak_bytes: int  # peak of what the call allocated, beyond its inputs and outputs
    expected_workspace_bytes: int | None  # computed before the run; None: the engine does not say
    input_bytes: int
    output_bytes: int
    resident_delta_bytes: int | None = None  # growth of the process, outputs included
    instrument: Literal["memray", "resident"] = "memray"  # that measured workspace_peak_bytes


class Disturbance(Record, frozen=True, kw_only=True):
    """What else the machine did during the timing, and how far the times moved."""

    moved: float  # largest over smallest median of its processes, less 1
    others_cores: float | None = None  # cores kept busy by other processes
    steal_percent: float | None = None  # of CPU time, given by the hypervisor to other guests
    throttled_periods: int | None = None  # periods in which the control group used up its CPU quota


class Accuracy(Record, frozen=True, kw_only=True):
    """Largest absolute difference from the float64 oracle, over o or over dq, dk and dv."""

    max_abs_error: float | None  # None: not finite, so JSON cannot hold it
    tolerance: float
    rows_checked: int  # query rows compared; large problems are checked on a sample of heads


class Rates(Record, frozen=True, kw_only=True):
    gflops: float  # problem.flops(direction) / median time
    percent_of_peak: float | None  # of its path's peak, measured in the same run with the same threads
    # Of calls with few queries, which memory limits: 10^9 bytes of visible k and v a second.
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
    # As asked for; block_q and block_k are as used. None: the engine has no blocks.
    blocks_asked: tuple[int, int] | Literal["auto"] | None = None
    side: Side | None = None  # in a duel
    kernel: str | None = None  # the kernel that ran, if the engine has several
    # The instructions of its products: a name in kernels/products/paths.py. None: the engine has no paths, or
    # the file is older than this field.
    isa_path: str | None = None
    path_asked: str | None = None  # the path asked for by name; None: the engine chose
    note: str | None = None  # one line on what ran, such as a fallback
    time: Time | None = None
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    rates: Rates | None = None
    energy_joules: float | None = None  # of one call, package and memory; None: no counter
    disturbance: Disturbance | None = None


class Duel(Record, frozen=True, kw_only=True):
    """B against A on one problem, or in the same work of a whole model, paired by rounds.

    A round has one fresh process a side, in random order; of whole models, in turns.
    """

    a: int  # places in `Results.rows`
    b: int
    ratio: float | None  # exp of the pseudo-median over rounds of ln(B / A); None: a side has no time
    low: float | None  # bootstrap interval over rounds at `confidence`
    high: float | None
    confidence: float | None
    p_value: float | None  # exact sign-flip test of no difference
    p_holm: float | None  # the same, adjusted for the number of duels in the file
    threshold: float  # a change up to this counts as the same
    orders: list[Literal["ab", "ba"]]  # which side ran first, round by round
    looks: int  # how often the rounds so far were judged
    verdict: Verdict
    reason: str | None = None  # one line, if the figures do not show the reason


class TrainingProcess(Record, frozen=True, kw_only=True):
    """Medians of one process's steps. A resumed run continues from these."""

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
    dtype: Literal["float32", "bfloat16"] = "float32"  # bfloat16: by torch.autocast
    windows: int  # of a step
    status: Status
    reason: str | None = None  # one line, unless status is ok
    data: str | None = None  # sf-temps, airpassengers, synthetic, or the user's file
    series: int | None = None
    parameters: int | None = None  # numbers that the optimizer updates
    buffer_bytes: int | None = None  # what else the model keeps, such as masks
    threads: int | None = None
    time: Time | None = None  # of whole steps
    # Medians of the parts of the timed steps.
    forward_ns: float | None = None
    backward_ns: float | None = None
    optimizer_ns: float | None = None
    # Time in attention, of one step, measured in additional steps; None: the model's own code.
    attention_forward_ns: float | None = None
    attention_backward_ns: float | None = None
    attention_share: float | None = None  # of the step
    attention_calls: int | None = None
    # Of the largest call: batch, heads, seqlen_q, seqlen_k, head_dim, head_dim_v.
    attention_shape: list[int] | None = None
    peak_bytes: int | None = None  # of one step, beyond the model, its inputs and its gradients
    note: str | None = None  # one line on what ran, such as a fallback
    losses: list[float] = []  # of the first steps; equal in every arm up to rounding
    processes: list[TrainingProcess] = []  # one per process of `time`; the figures above are their medians


class InferenceProcess(Record, frozen=True, kw_only=True):
    """Attention in one process's calls. A resumed run continues from these."""

    attention_ns: float
    attention_share: float
    attention_calls: int


class InferenceTest(Record, frozen=True, kw_only=True):
    """A prefill or some steps of decoding, of one model with one attention."""

    model: str  # built in, or the path of its config.json
    dtype: Literal["float32", "bfloat16", "float16"]
    test: Literal["prefill", "decode"]
    tokens: int  # of each sequence: of the prompt, or decoded one by one
    depth: int  # tokens in the cache before
    batch: int
    attention: str  # sdpa, eager: of Transformers; flash: ours
    threads: int | None = None
    status: Status
    reason: str | None = None  # one line, unless status is ok
    parameters: int | None = None
    weight_bytes: int | None = None
    cache_bytes: int | None = None  # of the tokens that are in the cache before
    time: Time | None = None  # of whole tests; a prefill ends with the first token
    attention_ns: float | None = None  # in attention, of one test, measured in additional tests
    attention_share: float | None = None  # of the test
    peak_bytes: int | None = None  # of one test, beyond the weights and the cache before
    note: str | None = None  # one line on what ran, such as a fallback
    # Greedy choices after a short prompt, equal in every arm but where rounding decides; and how far each was
    # ahead of the second, as a share of the largest logit.
    compared_tokens: list[int] = []
    compared_leads: list[float] = []
    processes: list[InferenceProcess] = []  # one per process of `time`


# A row of any kind of file: it has a status, a reason and a time.
AnyRow = Measurement | TrainingStep | InferenceTest


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
    inference: list[InferenceTest] = []
    warnings: list[str] = []  # one line each: what a reader should know or do
    complete: bool = True  # False: points are still missing; --resume measures them
    # Of a cluster: what each task measured on its host, as a file of its own. Then this file has no rows
    # itself, and its machine is where the command ran.
    hosts: list[Results] = []

    @property
    def of_cluster(self) -> bool:
        """Whether hosts of a cluster measured it, this being the file or one host's share."""
        return "each_node" in self.config

    @property
    def study(self) -> dict[str, Any]:
        """The settings of the study. A duel keeps those of its study apart from its own."""
        found: dict[str, Any] = self.config.get("study", self.config)
        return found

    @property
    def rows(self) -> list[AnyRow]:
        """Every measurement, of whatever kind and host. Duels and the machine are none."""
        own: list[AnyRow] = [*self.measurements, *self.training, *self.inference]
        return own + [row for task in self.hosts for row in task.rows]
