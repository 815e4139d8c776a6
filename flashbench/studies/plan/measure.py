"""Rates of this machine, from the tasks of Dask's attention in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from flashbench.errors import EngineError
from flashbench.integrations.requirements import missing
from flashbench.measure.machine import describe_machine
from flashbench.measure.pool import WorkerPool
from flashbench.measure.worker import WorkerFailure
from flashbench.problem import AttentionProblem, Direction
from flashbench.studies.plan.plan import Chunks
from flashbench.studies.plan.rates import PassRate, Rates, flops_of, merged_numbers
from flashbench.studies.progress import Progress

FACTORY = "flashbench.studies.plan.pair:build"  # not imported here: it needs Dask
# The kernel's rate hardly changes beyond so many rows.
MOST_ROWS = 4096
MOST_FLOPS = 1.2e11  # of a forward call, to have the rates in half a minute
FEW_KEYS = 64  # of a pair whose time is mostly spent beside the kernel
CALLS, BURST_NS = 3, 200_000_000


class Timed(NamedTuple):
    """A task: operations of its kernel, numbers that it merges, and seconds."""

    flops: int
    merged: int
    seconds: float


def measure_rates(
    problem: AttentionProblem,
    chunks: Chunks,
    directions: Sequence[Direction],
    *,
    threads: int,
    timeout_s: float = 600.0,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Rates:
    """Time a pair of chunks and one with few keys, each direction in a process of its own.

    problem: its heads and sizes count; long chunks and many heads are measured in part.
    Raises EngineError: Dask is not installed, or a process failed.
    """
    try:
        import dask  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing(error, "measuring a pair of chunks, which --rates FILE spares,", "cluster") from error
    alike = _alike(problem, chunks)
    found: dict[Direction, PassRate] = {}
    sizes = (alike, msgspec.structs.replace(alike, seqlen_k=min(FEW_KEYS, -(-alike.seqlen_k // 2))))
    with WorkerPool(threads, timeout_s=timeout_s) as pool:
        for number, direction in enumerate(directions):
            on_progress(Progress(number, len(directions), f"a pair of chunks, {direction}"))
            try:
                with pool.fresh() as worker:
                    timed = []
                    for size in sizes:
                        arguments = {"problem": msgspec.to_builtins(size), "direction": direction}
                        worker.prepare("pair", FACTORY, arguments)
                        burst = worker.time("pair", CALLS, at_least_ns=BURST_NS)
                        worker.release("pair")
                        timed.append(timed_task(size, direction, median(burst.samples_ns) / 1e9))
            except WorkerFailure as failure:
                raise EngineError(
                    f"a pair of chunks could not be measured: {failure.reason}",
                    hint="--rates FILE.json takes the rates of a file of flashbench profile",
                ) from failure
            found[direction] = solved(*timed, seqlen=alike.seqlen_k, threads=threads)
    on_progress(Progress(len(directions), len(directions), "done"))
    words = f"measured on this machine ({describe_machine().cpu}), {alike.seqlen_q} x {alike.seqlen_k} tokens"
    return Rates(
        source=words,
        merge_source="measured there too, with few keys",
        forward=found.get("fwd"),
        backward=found.get("bwd"),
    )


def solved(whole: Timed, few: Timed, *, seqlen: int, threads: int | None) -> PassRate:
    """The two times as operations of the kernel at one rate, and merged numbers at another.

    >>> rate = solved(Timed(10**9, 1000, 1.001), Timed(10**6, 1000, 0.002), seqlen=1, threads=1)
    >>> round(rate.gflops, 9), round(rate.merge_ns, 6)
    (1.0, 1000.0)
    """
    determinant = whole.flops * few.merged - few.flops * whole.merged
    a_flop = (whole.seconds * few.merged - few.seconds * whole.merged) / determinant
    a_number = (whole.flops * few.seconds - few.flops * whole.seconds) / determinant
    if a_flop <= 0 or a_number < 0:  # noise: the whole pair's time is then taken as the kernel's
        a_flop, a_number = whole.seconds / whole.flops, 0.0
    return PassRate(gflops=1e-9 / a_flop, merge_ns=1e9 * a_number, seqlen=seqlen, threads=threads)


def _alike(problem: AttentionProblem, chunks: Chunks) -> AttentionProblem:
    """A pair of chunks with as many heads as are measured in time."""
    rows, keys = (max(2, min(size, MOST_ROWS)) for size in chunks)
    group = problem.num_heads // problem.num_kv_heads
    of_a_group = flops_of(problem, "fwd", rows * keys) // problem.num_kv_heads
    groups = max(1, min(problem.num_kv_heads, int(MOST_FLOPS / of_a_group)))
    return AttentionProblem.of(
        rows,
        seqlen_k=keys,
        num_heads=groups * group,
        num_kv_heads=groups,
        head_dim=problem.head_dim,
        head_dim_v=problem.head_dim_v,
        dtype=problem.dtype,
        softmax_scale=problem.softmax_scale,
    )


def timed_task(problem: AttentionProblem, direction: Direction, seconds: float) -> Timed:
    """The task of this pair, which took so long."""
    return Timed(
        flops_of(problem, direction, problem.visible_pairs),
        merged_numbers(problem, direction, problem.seqlen_q, problem.seqlen_k),
        seconds,
    )
