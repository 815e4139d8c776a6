"""Is `flashbench plan` right? Its tasks, bytes and times beside those of two Dask workers.

It takes about three minutes of a quiet machine with two cores or more (Linux):

    python benchmarks/plan_validation.py

Two worker processes of one thread, each pinned to a core of its own, are the hosts. Measured first, in these
workers: one pair of chunks and one with few keys while both workers compute, the rate at which one receives,
a message, and a task of the scheduler. From these `flashbench.studies.plan` predicts. Then both passes run
three times, full and causal, and the median counts. Inputs are random numbers, made in the workers; results
stay there, where Placement puts them. Dask's fusion of tasks in a row is off, so that all are counted.

Its active memory manager is off too, which drops copies of keys and sends them again. The task that finishes
a chunk of dk and dv is Dask's to place, and each sum may travel once more to it.

It exits with 1 if the number of tasks or the bytes of keys are not those planned, if fewer bytes of sums
moved than planned, or more than that, or if a time is off by more than 20 %.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import dask.array as da
import distributed
import msgspec
import numpy as np

from flashbench.integrations.dask import Placement, attention, attention_backward
from flashbench.measure.machine import describe_machine
from flashbench.measure.timing import burst
from flashbench.problem import AttentionProblem, Direction
from flashbench.studies.plan.clock import Network
from flashbench.studies.plan.measure import FEW_KEYS, solved, timed_task
from flashbench.studies.plan.pair import build
from flashbench.studies.plan.plan import Chunks, PassPlan, make_plan
from flashbench.studies.plan.rates import PassRate, Rates

PROBLEM = AttentionProblem.of(16384, num_heads=8, num_kv_heads=2, dtype="float32")
CHUNKS = Chunks(2048, 2048)
WORKERS, RUNS, WITHIN = 2, 3, 0.2
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd")
KIB, MIB = 2**10, 2**20


def pin(dask_worker: Any) -> None:
    """Keep every thread of this worker on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[int(dask_worker.name) % len(cores)]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


@contextmanager
def two_workers() -> Iterator[distributed.Client]:
    """A client of pinned workers."""
    with (
        dask.config.set({"distributed.scheduler.active-memory-manager.start": False}),
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(pin)
        client.register_plugin(Placement())
        yield client


def seconds_of_pair(problem: dict[str, Any], direction: Direction) -> float:
    """The median of a task's calls."""
    task = build(problem, direction)
    task.call()
    return statistics.median(burst(task.call, 5, at_least_ns=10**9, at_most=20).samples_ns) / 1e9


def rate_of(client: distributed.Client, direction: Direction) -> PassRate:
    """Of one worker while the other computes the same."""
    alike = msgspec.structs.replace(PROBLEM, seqlen_q=CHUNKS.queries, seqlen_k=CHUNKS.keys)
    timed = []
    for size in (alike, msgspec.structs.replace(alike, seqlen_k=FEW_KEYS)):
        futures = [
            client.submit(seconds_of_pair, msgspec.to_builtins(size), direction, workers=[name], pure=False)
            for name in client.scheduler_info()["workers"]
        ]
        timed.append(timed_task(size, direction, statistics.mean(client.gather(futures))))
    return solved(*timed, seqlen=CHUNKS.keys, threads=1)


def same(x: Any, _: int = 0) -> Any:
    """A task that takes no time."""
    return x


def network_of(client: distributed.Client) -> Network:
    """The rate at which a worker receives, a message from a task to the next, and a task of the scheduler."""
    one, other = client.scheduler_info()["workers"]
    for _ in range(5):
        made = client.submit(np.ones, 8 * MIB, workers=[one], pure=False)
        client.submit(np.shape, made, workers=[other], pure=False).result()
    log = client.run(lambda dask_worker: list(dask_worker.transfer_incoming_log), workers=[other])[other]
    link = statistics.median(each["total"] / each["duration"] for each in log if each["total"] > 8 * MIB)
    found = client.submit(same, 0, workers=[one], pure=False)
    found.result()
    length, start = 200, time.perf_counter()
    for _ in range(length):
        found = client.submit(same, found, workers=[one], pure=False)
    found.result()
    latency = (time.perf_counter() - start) / length
    count, start = 2000, time.perf_counter()
    distributed.wait(client.map(same, range(count), pure=False))
    return Network(link=link, latency_s=latency, task_s=(time.perf_counter() - start) / count)


def tasks_done(dask_scheduler: Any) -> int:
    """Tasks of attention that came from a worker since the last call."""
    log = dask_scheduler.transition_log
    count = sum(
        (start, finish) == ("processing", "memory") and "attention" in str(key)
        for key, start, finish, *_ in log
    )
    log.clear()
    return count


def received(dask_worker: Any) -> tuple[int, int]:
    """Bytes of keys, and of their sums, that this worker received since the last call.

    Without the few bytes of Python's objects around the arrays.
    """
    log, keys, sums = dask_worker.transfer_incoming_log, 0, 0
    for transfer in log:
        for key, size in transfer["keys"].items():
            if "load-keys" in str(key):
                keys += size // KIB * KIB
            elif "attention-backward-keys" in str(key):
                sums += size // KIB * KIB
    log.clear()
    return keys, sums


class Run(NamedTuple):
    """One computation."""

    seconds: float
    tasks: int
    key_bytes: int
    sum_bytes: int


def run(client: distributed.Client, arrays: list[da.Array]) -> tuple[Run, list[da.Array]]:
    """What it took, and the arrays in the workers' memory."""
    client.run_on_scheduler(tasks_done)
    client.run(received)
    start = time.perf_counter()
    with dask.config.set({"optimization.fuse.active": False}):
        kept = list(client.persist(arrays))
        distributed.wait(kept)  # the scheduler optimizes, later
    seconds = time.perf_counter() - start
    keys, sums = map(sum, zip(*client.run(received).values(), strict=True))
    return Run(seconds, client.run_on_scheduler(tasks_done), keys, sums), kept


def compare(client: distributed.Client, problem: AttentionProblem, plans: list[PassPlan]) -> bool:
    """Run, print a row for each direction, and say whether all is as planned."""
    numbers = da.random.default_rng(0)

    def made(shape: tuple[int, ...], rows: int) -> da.Array:
        return numbers.random(shape, dtype=np.float32, chunks=(*shape[:2], rows, shape[3]))

    right = True
    k, v = (made(problem.k_shape, CHUNKS.keys) for _ in range(2))
    kept: list[da.Array] = []  # of the last run
    for plan in plans:
        runs = []
        for _ in range(RUNS):
            new = made(problem.q_shape, CHUNKS.queries)  # else Dask would find the results of the run before
            if plan.direction == "fwd":
                kept, q = [], new
                arrays = list(attention(q, k, v, causal=problem.causal, return_lse=True))
                took, kept = run(client, arrays)
            else:
                took, _ = run(
                    client, list(attention_backward(new, q, k, v, *kept, causal=problem.causal))[:3]
                )
            runs.append(took)
        right &= report(problem, plan, runs)
    return right


def report(problem: AttentionProblem, plan: PassPlan, runs: list[Run]) -> bool:
    """Print the row, and say whether all is as planned."""
    seconds = [each.seconds for each in runs]
    measured = statistics.median(seconds)
    ratio = plan.seconds / measured
    finishing = 0 if plan.direction == "fwd" else problem.kv_bytes  # sums are float32, as k and v
    planned = plan.moved_key_bytes, plan.moved_bytes - plan.moved_key_bytes
    tasks, keys, sums = ("-".join(map(str, sorted({each[i] for each in runs}))) for i in (1, 2, 3))
    print(
        f"| {plan.direction}, {'causal' if problem.causal else 'full'} | {plan.tasks} / {tasks} "
        f"| {planned[0]} / {keys} | {planned[1]} / {sums} "
        f"| {plan.seconds:.2f} / {measured:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
        f"| {ratio:.2f} |"
    )
    return abs(ratio - 1) <= WITHIN and all(
        each.tasks == plan.tasks
        and each.key_bytes == planned[0]
        and planned[1] <= each.sum_bytes <= planned[1] + finishing
        for each in runs
    )


def main() -> None:
    """Measure, predict, run, and print Markdown."""
    with two_workers() as client:
        rates = Rates(
            source="the workers", merge_source="the workers", forward=rate_of(client, "fwd"),
            backward=rate_of(client, "bwd"),
        )  # fmt: skip
        network = network_of(client)
        p = PROBLEM
        heads = f"{p.num_heads} heads ({p.num_kv_heads} of keys) of {p.head_dim}, {p.dtype}"
        chunks = f"chunks of {CHUNKS.queries:,} and {CHUNKS.keys:,}"
        print(f"{describe_machine().cpu}: {p.seqlen_q:,} tokens, {heads}, {chunks}\n")
        for direction in DIRECTIONS:
            rate = rates.of(direction)
            print(f"{direction}: {rate.gflops:.1f} GFLOP/s, {rate.merge_ns:.1f} ns a merged number")
        print(f"link {network.link / 1e9:.2f} GB/s, message {1e3 * network.latency_s:.1f} ms, "
              f"scheduler {1e3 * network.task_s:.2f} ms a task\n")  # fmt: skip
        columns = ("planned / measured", "tasks", "bytes of keys", "bytes of sums", "seconds", "ratio")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        right = True
        for causal in (False, True):
            problem = msgspec.structs.replace(p, causal=causal)
            plan = make_plan(
                problem, hosts=WORKERS, chunks=CHUNKS, network=network, rates=rates, directions=DIRECTIONS
            )
            right &= compare(client, problem, plan.passes)
    if not right:
        sys.exit("a count differs, or a time is off by more than 20 %")


if __name__ == "__main__":
    main()
