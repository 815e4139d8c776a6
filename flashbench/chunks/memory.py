"""How many chunks a worker holds at once: what bounds that, and the bytes it comes to."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

from flashbench.dtypes import DTYPES, accumulator_of
from flashbench.errors import AttentionError
from flashbench.problem import AttentionProblem

# Sums of dk and dv of a chunk of keys that a worker holds at once: one that came, one that it adds to, one
# that leaves, and two that Dask has not yet dropped.
_SUMS_HELD = 5


class WorkerMemory(NamedTuple):
    """Bytes that one worker holds at the peak, beside what it takes without work."""

    queries: int  # its share of the chunks of queries, and their sums
    keys: int  # chunks of keys in flight, and their sums
    task: int  # what the running task adds, and sums that Dask has not yet dropped

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


def worker_memory(
    problem: AttentionProblem,
    direction: Literal["fwd", "bwd"],
    *,
    query_chunk: int,
    key_chunk: int,
    workers: int,
    in_flight: int | None = None,
) -> WorkerMemory:
    """Bytes that a worker holds at the peak of `attention` ("fwd") or `attention_backward` ("bwd").

    For workers of one thread under `Placement`. Results come on top unless they are stored or reduced, and so
    do inputs that are in memory before (persisted arrays).

    Args:
        problem: of the whole sequence. Batch and heads are in one chunk.
        direction: the pass.
        query_chunk: rows of q in a chunk.
        key_chunk: rows of k in a chunk.
        workers: processes of one thread.
        in_flight: as in `attention`; None: its default with so many workers.

    >>> problem = AttentionProblem.of(65536, num_heads=32, head_dim=128, dtype="float32")
    >>> found = worker_memory(problem, "fwd", query_chunk=4096, key_chunk=2048, workers=4)
    >>> [n // 2**20 for n in found], found.total // 2**20
    ([772, 320, 322], 1414)
    """
    ahead = in_flight_or_default(in_flight, workers)
    dtype = DTYPES[problem.dtype]
    stored, computed = dtype.itemsize, accumulator_of(problem.dtype).itemsize
    d, dv = problem.head_dim, problem.head_dim_v
    per_query, per_key = problem.batch * problem.num_heads, problem.batch * problem.num_kv_heads
    chunk = min(query_chunk, problem.seqlen_q) * per_query
    chunks = -(-problem.seqlen_q // query_chunk)
    share = min(problem.seqlen_q, -(-chunks // workers) * query_chunk) * per_query
    chunk_of_keys = min(key_chunk, problem.seqlen_k) * per_key
    in_use = min(ahead * key_chunk, problem.seqlen_k) * per_key
    widened = 0 if stored == computed else computed  # 16-bit chunks are computed in 32 bits
    if direction == "fwd":
        total = (dv + 1) * 8  # o and lse of `attend`
        return WorkerMemory(
            queries=share * (d * stored + total),
            keys=in_use * (d + dv) * stored,
            task=chunk * (2 * total + dv * computed + d * widened) + chunk_of_keys * (d + dv) * widened,
        )
    return WorkerMemory(
        queries=share * ((d + 2 * dv) * stored + computed + d * computed),
        keys=in_use * (d + dv) * stored + _SUMS_HELD * chunk_of_keys * (d + dv) * computed,
        task=chunk * (2 * d * computed + (d + 2 * dv) * widened)
        + chunk_of_keys * (d + dv) * (2 * computed + widened),
    )


def in_flight_or_default(in_flight: int | None, workers: int | None = None) -> int:
    """How many chunks of keys may be in use at once. Raises AttentionError.

    In the backward pass a chunk of keys goes from worker to worker. So there is one for each, and one more
    that is loaded meanwhile.
    """
    if in_flight is None:
        return 1 + (_workers() if workers is None else workers)
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 1:
        raise AttentionError(f"in_flight must be a whole number from 1 up, or None, not {in_flight!r}")
    return in_flight


def _workers() -> int:
    """Workers of Dask's current client; 1 without one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return 1
    try:
        client = distributed.get_client()
    except ValueError:  # there is none
        return 1
    return 1 if client.asynchronous else max(1, len(client.nthreads()))
