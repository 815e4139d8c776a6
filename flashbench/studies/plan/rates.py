"""How fast one host computes a pair of chunks: a rate of the kernel, and what a task does beside it."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.dtypes import DTYPES, Dtype
from flashbench.errors import ResultsError
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.hosts import each_host
from flashbench.results.record import Measurement, Record, Results
from flashbench.studies.plan.layout import Layout

# Nanoseconds for each number that a task merges or adds beside its kernel, on one core of an Intel Xeon
# (Emerald Rapids): python benchmarks/plan_validation.py prints them. For rates from a results file.
USUAL_MERGE_NS = {"fwd": 22.0, "bwd": 4.5}


class PassRate(Record, frozen=True, kw_only=True):
    """One direction on one host."""

    gflops: float  # 10^9 operations of the products a second, as `AttentionProblem.flops` counts them
    merge_ns: float  # for each number that is merged (o) or added to a sum (dq, dk, dv)
    seqlen: int  # queries and keys that it was measured with
    threads: int | None = None


class Rates(Record, frozen=True, kw_only=True):
    """Of one host."""

    source: str  # in words
    merge_source: str
    forward: PassRate | None = None
    backward: PassRate | None = None

    def of(self, direction: Direction) -> PassRate:
        """The rate of this direction, which must be known."""
        rate = self.forward if direction == "fwd" else self.backward
        assert rate is not None
        return rate


def flops_of(problem: AttentionProblem, direction: Direction, scores: int) -> int:
    """Operations of a pair with so many scores a head: those of `AttentionProblem.flops`."""
    d, d_v = problem.head_dim, problem.head_dim_v
    products = d + d_v if direction == "fwd" else 3 * d + 2 * d_v
    return 2 * problem.num_heads * scores * products


def merged_numbers(problem: AttentionProblem, direction: Direction, queries: int, keys: int) -> int:
    """Numbers that a task of so many queries and keys merges: o; or dq, dk and dv, which it adds up."""
    if direction == "fwd":
        return problem.batch * problem.num_heads * queries * problem.head_dim_v
    of_keys = problem.num_kv_heads * keys * (problem.head_dim + problem.head_dim_v)
    return problem.batch * (problem.num_heads * queries * problem.head_dim + of_keys)


def pair_seconds(
    layout: Layout, direction: Direction, queries: int, keys: int, scores: int, rate: PassRate
) -> tuple[float, float]:
    """Seconds in the kernel and beside it, of a pair with so many rows and scores."""
    kernel = flops_of(layout.problem, direction, scores) / rate.gflops / 1e9
    return kernel, merged_numbers(layout.problem, direction, queries, keys) * rate.merge_ns / 1e9


def computed_in(dtype: Dtype) -> Dtype:
    """The dtype in which tasks compute: 16-bit chunks are widened first."""
    return DTYPES[dtype].accumulator


def rates_of_file(
    results: Results, name: str, problem: AttentionProblem, directions: Sequence[Direction], chunk: int
) -> Rates:
    """Rates that a file of `profile` or `sweep` has for this problem.

    Of several lengths the longest up to the chunk's counts, else the shortest; of several hosts the slowest,
    for which the others wait.

    Raises ResultsError that says which rate the file lacks.
    """
    dtype = computed_in(problem.dtype)
    found: dict[Direction, PassRate] = {}
    for direction in directions:
        of_hosts = [
            _chosen(host.measurements, problem, dtype, direction, chunk) for host in each_host(results)
        ]
        known = [rate for rate in of_hosts if rate is not None]
        if not known:
            raise ResultsError(
                f"{name} has no time of engine flash with {dtype}, head_dim {problem.head_dim}, --direction "
                f"{direction}",
                hint=f"flashbench profile -e flash --dtype {dtype} --head-dim {problem.head_dim} --direction "
                f"{','.join(directions)} --seq-lens 4k --heads {problem.num_heads} --save host.json",
            )
        found[direction] = min(known, key=lambda rate: rate.gflops)
    return Rates(
        source=f"{name} ({each_host(results)[0].machine.cpu})",
        merge_source="those of one core of an Intel Xeon (Emerald Rapids): the file has none",
        forward=found.get("fwd"),
        backward=found.get("bwd"),
    )


def _chosen(
    rows: Sequence[Measurement], problem: AttentionProblem, dtype: Dtype, direction: Direction, chunk: int
) -> PassRate | None:
    fitting = [
        (row.problem.seqlen_q, row.rates.gflops, row.threads)
        for row in rows
        if row.engine == "flash"
        and row.direction == direction
        and row.status == "ok"
        and row.rates is not None
        and row.problem.dtype == dtype
        and row.problem.head_dim == problem.head_dim
        and row.problem.seqlen_q == row.problem.seqlen_k
        and not row.problem.features
    ]
    if not fitting:
        return None
    up_to = [each for each in fitting if each[0] <= chunk]
    length = max(up_to)[0] if up_to else min(fitting)[0]
    gflops, threads = max((gflops, threads or 0) for seqlen, gflops, threads in fitting if seqlen == length)
    return PassRate(gflops=gflops, merge_ns=USUAL_MERGE_NS[direction], seqlen=length, threads=threads or None)
