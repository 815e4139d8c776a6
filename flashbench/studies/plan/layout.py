"""A sequence cut into chunks, the hosts that compute them, and what the graph of that has and moves.

Pairs and their order are those of `flashbench.chunks`, from which the graphs of `integrations.dask` are made.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from flashbench.chunks.memory import in_flight_or_default
from flashbench.chunks.parts import Places, owners_of, places_of, steps_of
from flashbench.dtypes import accumulator_of
from flashbench.errors import ConfigError
from flashbench.problem import AttentionProblem, Direction

# Dask's scheduler takes some kilobytes and half a millisecond for each task: beyond this it is the limit.
MOST_PAIRS = 2**18


class Pair(NamedTuple):
    """A task: one chunk of queries with one chunk of keys."""

    step: int  # a step is a chunk of keys that is not hidden, and the chunks of queries that see it
    queries: int
    keys: int
    scores: int  # visible (query, key) pairs of one head, over the batch


class Move(NamedTuple):
    """What travels to the host of a pair before it is computed, in bytes."""

    keys: int  # its chunk of k and v; 0: it is there
    sums: int  # dk and dv as they grow; 0: they are there


class Layout:
    """Chunks of queries and of keys; batch and heads are in one chunk.

    Each chunk of queries is on one host, where all its pairs are computed, where `Placement` of
    `integrations.dask` puts it: the hosts have equally many, spread over the whole sequence.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        hosts: int,
        chunk: int,
        key_chunk: int,
        in_flight: int | None = None,
    ) -> None:
        """problem: seqlen_q = seqlen_k. chunk, key_chunk: rows. in_flight: as of attention.

        Raises ConfigError for more pairs than a graph can have, AttentionError for a wrong `in_flight`.
        """
        self.problem, self.hosts, self.chunk, self.key_chunk = problem, hosts, chunk, key_chunk
        self.in_flight = in_flight_or_default(in_flight, hosts)
        chunks, key_chunks = (-(-problem.seqlen_q // rows) for rows in (chunk, key_chunk))
        if chunks * key_chunks > MOST_PAIRS:
            raise ConfigError(
                f"--chunk {chunk} and --key-chunk {key_chunk} make {chunks} x {key_chunks} pairs of "
                f"{problem.seqlen_q} tokens, and a graph may have up to {MOST_PAIRS}",
                hint="give larger chunks",
            )
        self.places = _places(problem.seqlen_q, chunk)
        self.key_places = _places(problem.seqlen_q, key_chunk)
        self._owners = owners_of(range(len(self.places)), hosts)
        self._moves: dict[Direction, list[Move]] = {}
        grown = accumulator_of(problem.dtype).itemsize
        of_keys = problem.batch * problem.num_kv_heads * (problem.head_dim + problem.head_dim_v)
        self.kv_bytes, self.sum_bytes = of_keys * problem.itemsize, of_keys * grown  # of one token

    def host_of(self, chunk: int) -> int:
        """The host of this chunk of queries."""
        return self._owners[chunk]

    @property
    def most_chunks(self) -> int:
        """Chunks of queries of the host that has most."""
        return -(-len(self.places) // self.hosts)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Those that are not hidden, in the graph's order."""
        steps = steps_of(self.problem, range(1), self.places, self.key_places)
        return [
            Pair(step, i, j, self.problem.batch * sum(part.scores for part in parts))
            for step, (j, pairs) in enumerate(steps)
            for i, parts in pairs
        ]

    @property
    def steps(self) -> int:
        """Chunks of keys that are not hidden."""
        return self.pairs[-1].step + 1

    @property
    def hidden(self) -> int:
        """Pairs that the graph leaves out."""
        return len(self.places) * len(self.key_places) - len(self.pairs)

    def tasks(self, direction: Direction, *, lse: bool) -> int:
        """Tasks of the graph. Inputs are no tasks of their own: the tasks that load chunks make them.

        Forward: a chunk of queries is loaded, finished, and each of its results taken. Of a pair another task
        says that it is done, if a later step waits for it. Backward: two tasks take a pair's result apart,
        and each chunk of a gradient is finished.
        """
        loads = self.steps + len({pair.queries for pair in self.pairs})
        waited_for = self.steps - self.in_flight  # later steps wait for the first ones
        if direction == "fwd":
            seen = sum(pair.step < waited_for for pair in self.pairs)
            return loads + len(self.pairs) + seen + (2 + lse) * len(self.places)
        gradients = len(self.places) + 2 * len(self.key_places)
        return loads + 3 * len(self.pairs) + max(0, waited_for) + gradients

    @cached_property
    def loaders(self) -> list[int]:
        """The host that loads the chunk of keys of each step: one of those that need it, by turns."""
        steps: list[list[Pair]] = [[] for _ in range(self.steps)]
        for pair in self.pairs:
            steps[pair.step].append(pair)
        chosen = (pairs[pairs[0].keys % len(pairs)] for pairs in steps)
        return [self.host_of(pair.queries) for pair in chosen]

    def moves(self, direction: Direction) -> list[Move]:
        """What travels before each pair. A chunk of keys travels once to each host that needs it."""
        if direction not in self._moves:
            self._moves[direction] = self._find_moves(direction)
        return self._moves[direction]

    def _find_moves(self, direction: Direction) -> list[Move]:
        there = set(enumerate(self.loaders))
        last: tuple[int, int] | None = None  # the step, and the host of its sums
        found = []
        for step, i, j, _ in self.pairs:
            host, rows = self.host_of(i), len(self.key_places[j])
            keys = 0 if (step, host) in there else rows * self.kv_bytes
            there.add((step, host))
            elsewhere = direction == "bwd" and last is not None and last[0] == step and last[1] != host
            found.append(Move(keys, rows * self.sum_bytes if elsewhere else 0))
            last = step, host
        return found

    @property
    def most_key_bytes(self) -> int:
        """Bytes of k and v that move if no host keeps a chunk from one pair to the next."""
        return self.kv_bytes * sum(
            len(self.key_places[pair.keys])
            for pair in self.pairs
            if self.host_of(pair.queries) != self.loaders[pair.step]
        )

    def received(self, direction: Direction) -> list[int]:
        """Bytes that each host receives."""
        total = [0] * self.hosts
        for pair, move in zip(self.pairs, self.moves(direction), strict=True):
            total[self.host_of(pair.queries)] += sum(move)
        return total


def _places(rows: int, chunk: int) -> Places:
    full, rest = divmod(rows, chunk)
    return places_of((chunk,) * full + ((rest,) if rest else ()))
