"""Replays in which order the threads of a flash call take its tiles, and when each would be done.

The order is not written down a second time: the kernels' own steps run here, as Python (`in_python`), on a
call without arrays. A clock takes the place of the work: how long a tile takes is given. The thread whose
clock is earliest takes the next ticket.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

from flashbench.engines.features import call_features
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.plan import chains_of, tiles_of
from flashbench.engines.launch import sequence_table, sizes_of
from flashbench.extras import NO_EXTRAS
from flashbench.kernels.call import structs
from flashbench.kernels.call.structs import Queries
from flashbench.kernels.call.tiles import tile_by_number
from flashbench.kernels.flash.chains import links_of, next_task
from flashbench.kernels.flash.forward import tile_of_task
from flashbench.problem import AttentionProblem

# Shares of a tile's time in the backward pass: scores and weights, dk and dv, dq. They have two, two and one
# of five products of equal size. The weights take about as long as one product.
BEFORE, GUARDED, AFTER = 3 / 6, 2 / 6, 1 / 6


def in_python(step: Any, **replaced: Callable[..., Any]) -> Callable[..., Any]:
    """A step of the kernels, and all steps that it calls, as Python functions. replaced: others, by name."""
    function = step.py_func
    known = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    called = {
        name: in_python(value, **replaced) for name, value in known.items() if hasattr(value, "py_func")
    }
    return FunctionType(function.__code__, {**function.__globals__, **called, **replaced})


def _at(place: tuple[list[int], int], index: int) -> tuple[list[int], int]:
    counters, first = place
    return counters, first + index


def _take_ticket(place: tuple[list[int], int]) -> int:
    counters, index = place
    counters[index] += 1
    return counters[index] - 1


class Tiles:
    """The tiles of one problem, as its kernels number them for so many threads."""

    def __init__(self, problem: AttentionProblem, blocks: Blocks, threads: int) -> None:
        rows = sequence_table(problem, tiles_of(problem, blocks)).tolist()
        sequences = [structs.Sequence(*row) for row in rows]
        tasks = problem.num_heads * sum(tiles_of(problem, blocks)(s.seqlen_q, s.seqlen_k) for s in sequences)
        self.tasks, self.chains, self.block_k = tasks, chains_of(problem), blocks.block_k
        self._call = SimpleNamespace(
            sizes=sizes_of(problem, *blocks),
            features=call_features(problem, NO_EXTRAS)[0],
            work=SimpleNamespace(threads=threads, tasks=tasks, sequence_count=len(sequences)),
        )
        self._parts = {
            "sequence_at": lambda call, b: sequences[b],
            "lane_step": lambda call: 1,
            "take_ticket": _take_ticket,
            "at": _at,
        }
        self._next_task = in_python(next_task, **self._parts)
        self._tile_of_task = in_python(tile_of_task, **self._parts)
        self._tile_by_number = in_python(tile_by_number, **self._parts)
        self._links_of = in_python(links_of, **self._parts)

    def of_task(self, task: int) -> Queries:
        """The tile of a ticket of the forward pass."""
        tile: Queries = self._tile_of_task(self._call, task)
        return tile

    def of_link(self, chain: int, link: int) -> Queries:
        """The tile of a link of a chain of the backward pass, as in `work_on_chains`."""
        sizes = self._call.sizes
        b, kv = chain // sizes.num_kv_heads, chain % sizes.num_kv_heads
        tiles = self._links_of(self._call, chain) // sizes.group
        tile: Queries = self._tile_by_number(self._call, b, kv * sizes.group + link // tiles, link % tiles)
        return tile

    def next_link(self, tickets: list[int], chain: int, slot: int) -> tuple[int, int]:
        """(chain, link) of a thread's next task of the backward pass; (-1, 0): none is left."""
        found: tuple[int, int] = self._next_task(self._call, (tickets, 0), chain, slot)
        return found

    def each(self) -> Iterable[Queries]:
        """Every tile."""
        return map(self.of_task, range(self.tasks))


class _Link(NamedTuple):
    """When a task of a chain and all before it have passed each tile of keys, and when the task is done."""

    passed: list[float]
    done: float


TimeOf = Callable[[Queries], float]


def forward_time(tiles: Tiles, time_of: TimeOf, starts: Sequence[float]) -> float:
    """When the last tile of a forward pass is done. starts: when each thread begins."""
    ready = list(starts)
    heapq.heapify(ready)
    end = 0.0
    for task in range(tiles.tasks):
        done = ready[0] + time_of(tiles.of_task(task))
        heapq.heapreplace(ready, done)
        end = max(end, done)
    return end


def backward_time(tiles: Tiles, time_of: TimeOf, starts: Sequence[float]) -> float:
    """When the last tile of a backward pass is done. starts: when each thread begins.

    A task passes a tile of keys after all tasks before it in its chain: see flash/chains.py.
    """
    ready = [(start, slot, -1) for slot, start in enumerate(starts)]
    heapq.heapify(ready)
    tickets = [0] * (1 + tiles.chains)
    links: dict[tuple[int, int], _Link] = {}
    end = 0.0
    while ready:
        now, slot, chain = heapq.heappop(ready)
        chain, link = tiles.next_link(tickets, chain, slot)
        if chain < 0:
            continue
        queries = tiles.of_link(chain, link)
        count = -(-(queries.end_key - queries.first_key) // tiles.block_k)
        # The task before took its ticket earlier, so its times are known.
        before = links[chain, link - 1].passed if link else []
        found = _follow(before, now, count, time_of(queries) / max(1, count))
        links[chain, link] = found
        end = max(end, found.done)
        heapq.heappush(ready, (found.done, slot, chain))
    return end


def _follow(before: Sequence[float], now: float, count: int, each: float) -> _Link:
    """The times of a task with `count` tiles of keys, each of which takes `each`, and longer if it must wait.

    before: `passed` of the task before.
    """
    passed = []
    for number in range(count):
        now += BEFORE * each
        now = max([now, *before[number : number + 1]]) + GUARDED * each
        passed.append(now)
        now += AFTER * each
    return _Link([*passed, *before[count:]], now)
