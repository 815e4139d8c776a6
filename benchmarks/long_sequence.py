r"""Attention and its backward pass on Dask workers whose memory the keys and values do not fit into.

It takes a minute; the second line some more, for as many queries as keys, and 8 GiB of memory:

    python benchmarks/long_sequence.py
    python benchmarks/long_sequence.py --workers 4 --limit 1.95 --seqlen 2048 --queries 2048 \
        --heads 1024 --key-chunk 16

Each worker is a process of one thread. k and v of the whole sequence exceed its limit of memory. Inputs are
random numbers, made chunk by chunk; o, lse and the gradients are stored in a folder, a file a chunk. The
table has the peak of each worker's resident memory, from Linux's own mark of it (VmHWM), beside the peak that
`worker_memory` predicts, and the bytes of key chunks that each worker received. At the end the last chunk of
queries is compared with attention on one machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dask
import dask.array as da
import distributed
import numpy as np

import flashbench
from flashbench.integrations.dask import Placement, attention, attention_backward, worker_memory
from flashbench.measure.machine import describe_machine
from flashbench.problem import AttentionProblem, Direction

GIB = 2**30


class Stored:
    """An array in a folder, a file for each chunk of its third axis: what Dask stores to and reads from."""

    def __init__(self, folder: Path, like: da.Array) -> None:
        folder.mkdir()
        self.folder, self.shape, self.dtype, self.ndim = folder, like.shape, like.dtype, like.ndim

    def __setitem__(self, index: tuple[slice, ...], chunk: Any) -> None:
        np.save(self._file(index), chunk)

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        return np.load(self._file(index))

    def _file(self, index: tuple[slice, ...]) -> Path:
        return self.folder / f"{index[2].start}.npy"


class Pass(NamedTuple):
    """What one pass took."""

    predicted: int  # bytes of a worker at the peak
    peaks: list[int]  # measured, of each worker
    received: list[int]  # bytes of key chunks, by each worker
    received_twice: int  # key chunks that a worker received more than once
    seconds: float


def resident(mark: str) -> int:
    """Bytes of this process: VmRSS now, or VmHWM, the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(mark))


def forget_peak() -> None:
    """Let VmHWM begin again."""
    Path("/proc/self/clear_refs").write_text("5")


def warm_up() -> None:
    """What a worker takes without work: kernels and libraries are loaded."""
    x = np.ones((1, 1, 64, 64))
    o, lse = flashbench.attention(x, x, x, return_lse=True)
    flashbench.attention_backward(x, x, x, x, o, lse)


def forget_transfers(dask_worker: Any) -> None:
    """Let the log of what this worker received begin again."""
    dask_worker.transfer_incoming_log.clear()


def key_chunks_received(dask_worker: Any) -> Counter[Any]:
    """How often this worker received each chunk of keys, by key and bytes."""
    return Counter(
        (key, size)
        for transfer in dask_worker.transfer_incoming_log
        for key, size in transfer["keys"].items()
        if "load-keys" in str(key)
    )


def measure(
    problem: AttentionProblem, *, workers: int, limit: int, query_chunk: int, key_chunk: int
) -> tuple[int, dict[Direction, Pass], float]:
    """Bytes of an idle worker, what each pass took, and the largest difference from one machine.

    The difference is that of the last chunk of queries of o and dq. limit: bytes of a worker.
    """
    rng = da.random.default_rng(0)

    def numbers(shape: tuple[int, ...], rows: int) -> da.Array:
        return rng.standard_normal(shape, chunks=(*shape[:2], rows, shape[3])).astype(problem.dtype)

    q, do = (numbers(problem.q_shape, query_chunk) for _ in range(2))
    k, v = (numbers(problem.k_shape, key_chunk) for _ in range(2))
    with (
        tempfile.TemporaryDirectory() as name,
        # It may drop a copy that is needed once more.
        dask.config.set({"distributed.scheduler.active-memory-manager.start": False}),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=limit,
            host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=name,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        client.register_plugin(Placement())
        client.run(warm_up)
        idle = max(client.run(resident, "VmRSS").values())

        def compute(direction: Direction, arrays: Sequence[da.Array]) -> tuple[Pass, list[da.Array]]:
            held = worker_memory(
                problem, direction, query_chunk=query_chunk, key_chunk=key_chunk, workers=workers
            )
            return store(client, arrays, Path(name), idle + held.total)

        forward, (o, lse) = compute("fwd", attention(q, k, v, causal=problem.causal, return_lse=True))
        gradients = attention_backward(do, q, k, v, o, lse, causal=problem.causal)
        backward, (dq, *_) = compute("bwd", [gradients.dq, gradients.dk, gradients.dv])
        rows = slice(-o.chunks[2][-1], None)
        mine = dask.compute(o[:, :, rows], dq[:, :, rows], scheduler="threads")
    one = of_one_machine(problem, *(x[:, :, rows] for x in (do, q)), k, v)
    error = max(float(np.abs(a - b).max()) for a, b in zip(mine, one, strict=True))
    return idle, {"fwd": forward, "bwd": backward}, error


def store(
    client: distributed.Client, arrays: Sequence[da.Array], folder: Path, predicted: int
) -> tuple[Pass, list[da.Array]]:
    """Compute and store these arrays, measured; and the arrays as stored."""
    files = [Stored(folder / x.name, x) for x in arrays]
    client.run(forget_peak)
    client.run(forget_transfers)
    start = time.perf_counter()
    da.store(list(arrays), files, lock=False)
    seconds = time.perf_counter() - start
    received = client.run(key_chunks_received).values()
    took = Pass(
        predicted,
        list(client.run(resident, "VmHWM").values()),
        [sum(size for _, size in counts.elements()) for counts in received],
        sum(n > 1 for counts in received for n in counts.values()),
        seconds,
    )
    return took, [
        da.from_array(file, chunks=x.chunks, name=f"stored-{x.name}")
        for file, x in zip(files, arrays, strict=True)
    ]


def of_one_machine(problem: AttentionProblem, *chunks: da.Array) -> tuple[Any, Any]:
    """o and dq of these queries (do, q), the last ones, with all keys (k, v)."""
    do, q, k, v = dask.compute(*chunks, scheduler="threads")
    o, lse = flashbench.attention(q, k, v, causal=problem.causal, return_lse=True)
    return o, flashbench.attention_backward(do, q, k, v, o, lse, causal=problem.causal).dq


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=0.7, help="GiB of a worker")
    parser.add_argument("--seqlen", type=int, default=1536)
    parser.add_argument("--queries", type=int, default=256, help="the last so many of the sequence")
    parser.add_argument("--heads", type=int, default=512)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--query-chunk", type=int, default=32)
    parser.add_argument("--key-chunk", type=int, default=32)
    parser.add_argument("--dtype", default="float64")
    given = parser.parse_args()
    problem = AttentionProblem.of(
        given.queries, seqlen_k=given.seqlen, num_heads=given.heads, head_dim=given.head_dim,
        dtype=given.dtype, causal=True,
    )  # fmt: skip
    limit = int(given.limit * GIB)
    idle, passes, error = measure(
        problem, workers=given.workers, limit=limit, query_chunk=given.query_chunk, key_chunk=given.key_chunk
    )
    print(f"{given.dtype}, {problem.seqlen_q:,} queries, {problem.seqlen_k:,} keys, {given.heads} heads of "
          f"{given.head_dim}, causal; {given.workers} workers; {describe_machine().cpu}\n")  # fmt: skip
    print(f"GiB: k and v {problem.kv_bytes / GIB:.2f}, limit of a worker {given.limit:.2f}, "
          f"an idle worker {idle / GIB:.2f}\n")  # fmt: skip
    print("| GiB | predicted peak | peak of each worker | k and v received by each | chunks received twice "
          "| seconds |\n|---|---|---|---|---|---|")  # fmt: skip
    for direction, took in passes.items():
        peaks, received = (
            ", ".join(f"{n / GIB:.2f}" for n in of_each) for of_each in (took.peaks, took.received)
        )
        print(f"| {direction} | {took.predicted / GIB:.2f} | {peaks} | {received} | {took.received_twice} "
              f"| {took.seconds:.0f} |")  # fmt: skip
    print(f"\nLargest difference from one machine, last chunk of queries of o and dq: {error:.1e}")
    if max(peak for took in passes.values() for peak in took.peaks) > limit:
        sys.exit("a worker exceeded its limit")


if __name__ == "__main__":
    main()
