"""Which worker computes which chunks of queries, decided on Dask's scheduler."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from flashbench.chunks.parts import owners_of, spread

# Tasks that belong on one worker: (token, chunk of batch, chunk of heads, "queries" or "keys", chunk of them)
Group = tuple[Any, ...]

_KINDS = "load-queries|load-keys|pair|queries|keys|seen|sinks"
_NAME = re.compile(rf"attention(?:-backward)?-({_KINDS})-([0-9a-f]{{32}})")


class Placement(SchedulerPlugin):
    """Keeps each chunk of queries on one worker: `client.register_plugin(Placement())`.

    Without it Dask moves chunks of queries and their sums to whoever is idle. Results are the same. With it a
    chunk of keys travels once to each worker that needs it. In the backward pass its dk and dv travel once
    from each worker to the next.

    Each worker gets equally many chunks of queries, spread over the whole sequence, so that a causal mask
    gives all of them work. Work stealing leaves them there. What a lost worker had goes to those that are
    left. A worker that joins takes part from the next computation on. Other tasks are not touched.
    """

    name = "flashbench-placement"
    idempotent = True

    def update_graph(self, scheduler: Any, *, tasks: Iterable[Any], **_: Any) -> None:
        """Place the tasks of a new computation. Without workers Dask places them."""
        workers = sorted(scheduler.running, key=lambda worker: str(worker.name))
        keys = [key for key in tasks if _is_ours(key)] if workers else []
        owners = _owners(keys, len(workers))
        for key in keys:
            task = scheduler.tasks[key]
            if _group(key) in owners and not _reads_memory(task):
                task.worker_restrictions = {workers[owners[_group(key)]].address}

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Place what no worker may compute any more."""
        _rescue(scheduler)

    def remove_worker(self, scheduler: Any, worker: str, *, stimulus_id: str, **_: Any) -> None:
        """Give what this worker had to those that are left."""
        _rescue(scheduler)
        for left in list(scheduler.workers.values()):
            scheduler.transitions(scheduler.bulk_schedule_unrunnable_after_adding_worker(left), stimulus_id)


def _is_ours(key: Any) -> bool:
    return isinstance(key, tuple) and isinstance(key[0], str) and _NAME.fullmatch(key[0]) is not None


def _kind(key: Any) -> str:
    found = _NAME.fullmatch(key[0])
    assert found is not None
    return found[1]


def _group(key: Any) -> Group:
    """The group of a task of ours."""
    found = _NAME.fullmatch(key[0])
    assert found is not None
    block, chunk = key[1:3], key[3]
    return found[2], *block, "keys" if found[1] == "load-keys" else "queries", chunk


def _owners(keys: Collection[Any], workers: int) -> dict[Group, int]:
    """The number of each group's worker.

    Neighbours in the order of `spread` share a worker, as dk and dv visit the chunks in this order. Of the
    workers that need a chunk of keys, one after the other loads one.
    """
    by_block: dict[Group, set[int]] = defaultdict(set)
    seen_by: dict[Group, list[int]] = defaultdict(list)
    for key in keys:
        if _kind(key) == "pair":
            token, b, h, _, i = _group(key)
            by_block[token, b, h].add(i)
            seen_by[token, b, h, "keys", key[4]].append(i)
    owners = {}
    for number, (block, chunks) in enumerate(sorted(by_block.items())):
        for i, owner in owners_of(chunks, workers).items():
            owners[(*block, "queries", i)] = (owner + number) % workers
    for group, chunks_of_queries in seen_by.items():
        in_order = sorted(chunks_of_queries, key=spread)
        loads = in_order[group[-1] % len(in_order)]
        owners[group] = owners[(*group[:3], "queries", loads)]
    return owners


def _reads_memory(task: Any) -> bool:
    """Whether a task takes a chunk of keys from where it is in memory already, and belongs there."""
    return _kind(task.key) == "load-keys" and not all(_is_ours(need.key) for need in task.dependencies)


def _rescue(scheduler: Any) -> None:
    """Give the tasks of workers that are gone to those that are left, group by group."""
    left = sorted(scheduler.workers)
    lost = [
        task
        for key, task in scheduler.tasks.items()
        if _is_ours(key)
        and task.worker_restrictions
        and not task.worker_restrictions & scheduler.workers.keys()
    ]
    if not left:
        return
    groups: Sequence[Group] = sorted({_group(task.key) for task in lost})
    new = {group: left[n % len(left)] for n, group in enumerate(groups)}
    for task in lost:
        task.worker_restrictions = {new[_group(task.key)]}
