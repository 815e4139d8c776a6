"""The graph replayed with a clock in place of the work: when each host computes, and when it waits."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from flashbench.problem import Direction
from flashbench.results.record import Record
from flashbench.studies.plan.layout import Layout
from flashbench.studies.plan.rates import PassRate, pair_seconds

# Messages between scheduler and workers from the end of one pair to the start of one that needs it. Backward
# a task in between takes the result apart.
HOPS: Mapping[Direction, int] = {"fwd": 1, "bwd": 2}
_READY, _THERE, _DONE = range(3)


class Network(Record, frozen=True, kw_only=True):
    """What is between the hosts, and Dask's scheduler."""

    link: float  # bytes a second that a host receives
    latency_s: float  # from the end of a task to the start of one that needs it
    task_s: float  # of the scheduler, which handles one task after the other


class Replay(NamedTuple):
    """Seconds."""

    seconds: float  # until the last pair is done
    kernel: list[float]  # in the kernel, by host
    merging: list[float]  # beside it, by host


def replay(layout: Layout, direction: Direction, rate: PassRate, network: Network) -> Replay:
    """Run the graph on the hosts that have the chunks of queries.

    As Dask runs it: a pair is given to its host when the tasks that it needs are done. Only then its chunks
    begin to travel, one after the other over the host's link. A host computes one pair at a time.
    """
    pairs, moves, latency = layout.pairs, layout.moves(direction), network.latency_s
    waits_for, followers = _needs(layout, direction)
    link_free = [0.0] * layout.hosts
    arrival: dict[tuple[int, int], float] = {}  # of a step's chunk of keys on a host that did not load it
    free, waiting = [True] * layout.hosts, [list[int]() for _ in range(layout.hosts)]
    kernel, merging = [0.0] * layout.hosts, [0.0] * layout.hosts
    events = [(0.0, _READY, node) for node, count in enumerate(waits_for) if not count]
    now = 0.0

    @cache
    def seconds_of(queries: int, keys: int, scores: int) -> tuple[float, float]:
        return pair_seconds(layout, direction, queries, keys, scores, rate)

    def send(host: int, size_bytes: int) -> float:
        link_free[host] = max(link_free[host], now) + size_bytes / network.link
        return link_free[host]

    while events:
        now, what, node = heapq.heappop(events)
        done: int | None = node
        if node < len(pairs):
            step, i, j, _ = pairs[node]
            host = layout.host_of(i)
            if what == _READY:
                there = send(host, moves[node].sums) if moves[node].sums else now
                if host != layout.loaders[step]:
                    if (step, host) not in arrival:
                        arrival[step, host] = send(host, len(layout.key_places[j]) * layout.kv_bytes)
                    there = max(there, arrival[step, host])
                heapq.heappush(events, (there, _THERE, node))
                continue
            if what == _THERE:
                heapq.heappush(waiting[host], node)
                done = None
            else:
                free[host] = True
        if done is not None:
            for follower, hops in followers[done]:
                waits_for[follower] -= 1
                if not waits_for[follower]:
                    heapq.heappush(events, (now + hops * latency, _READY, follower))
        if node < len(pairs) and free[host] and waiting[host]:
            chosen = heapq.heappop(waiting[host])
            _, i, j, scores = pairs[chosen]
            in_kernel, beside = seconds_of(len(layout.places[i]), len(layout.key_places[j]), scores)
            kernel[host] += in_kernel
            merging[host] += beside
            free[host] = False
            heapq.heappush(events, (now + in_kernel + beside, _DONE, chosen))
    return Replay(now, kernel, merging)


def _needs(layout: Layout, direction: Direction) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """For each pair, then for the load of each step: how many it waits for, and (who waits for it, messages).

    A pair waits for its load, and for the pair before of its chunk of queries; backward also for the pair
    before in its step, from which it gets the sums. A load waits for a step before it.
    """
    pairs = layout.pairs
    waits_for = [0] * (len(pairs) + layout.steps)
    followers: list[list[tuple[int, int]]] = [[] for _ in waits_for]
    last: dict[int, int] = {}  # the last pair of each chunk of queries

    def follow(node: int, before: int, hops: int) -> None:
        followers[before].append((node, hops))
        waits_for[node] += 1

    for p, pair in enumerate(pairs):
        ends_step = p + 1 == len(pairs) or pairs[p + 1].step > pair.step
        follow(p, len(pairs) + pair.step, 1)
        if pair.queries in last:
            follow(p, last[pair.queries], HOPS[direction])
        last[pair.queries] = p
        if direction == "bwd" and not ends_step:
            follow(p + 1, p, HOPS[direction])
        let_load = pair.step + layout.in_flight
        if let_load < layout.steps and (direction == "fwd" or ends_step):
            follow(len(pairs) + let_load, p, HOPS[direction] + 1)  # with a task that says that it is done
    return waits_for, followers
