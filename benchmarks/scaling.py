"""How well would flash use many cores? Predicted from this machine's times of single tiles.

It takes some minutes of a quiet machine with two cores or more:

    python benchmarks/scaling.py --rounds 9

Measured: the time of each kind of tile on one thread (causal tiles differ), what a call costs beside its
tiles, and when the threads of a call start. Replayed: the order in which threads take tiles (`ticket_order`).
Predicted: a call's time on 1 to 192 threads, and its efficiency: the time of one thread over the time of all
threads together. Not in it: memory bandwidth, caches that threads share, and clocks that fall when all cores
are busy.

The first table compares predictions with whole calls, measured on one thread and on two. The others print
efficiency in percent: with threads that all start at once, and with threads that start as measured. In
parentheses: fewer than four tiles a thread.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from ticket_order import Tiles, backward_time, forward_time

from flashbench.engines import Settings, get_engine
from flashbench.engines.flash.block_sizes import Blocks, Pass
from flashbench.engines.flash.plan import plan_of
from flashbench.kernels.call.structs import Queries
from flashbench.measure.machine import describe_machine
from flashbench.problem import AttentionProblem
from flashbench.threads.pool import run_on_threads

THREADS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192)
TOGETHER = 8  # tiles of a kind in one timed call: they share k and v, as the tiles of a head do
ENOUGH = 4  # tiles a thread
SIMULATE = {"fwd": forward_time, "bwd": backward_time}
# A tile's number of queries and keys.
Kind = tuple[int, int]


class Shape(NamedTuple):
    """A row of the tables."""

    dtype: str
    direction: Pass
    causal: bool
    heads: int
    seqlen: int

    @property
    def problem(self) -> AttentionProblem:
        """The problem of configs/speed.toml."""
        return AttentionProblem.of(
            self.seqlen,
            num_heads=self.heads,
            dtype=self.dtype,  # type: ignore[arg-type]
            causal=self.causal,
        )

    def __str__(self) -> str:
        words = (self.dtype, self.direction, "causal" if self.causal else "full")
        return " | ".join((*words, str(self.heads), str(self.seqlen)))


class Timer:
    """Times of calls of engine `flash`, in seconds: the lower quartile of the rounds."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._engine = get_engine("flash")
        self._tiles: dict[tuple[Any, ...], float] = {}

    def call(self, problem: AttentionProblem, direction: Pass, settings: Settings) -> float:
        """One call. With one thread CPU time, which leaves out what other processes take."""
        clock = time.thread_time if settings.num_threads == 1 else time.perf_counter
        run = self._runner(problem, direction, settings)
        run()
        times = []
        for _ in range(self._rounds):
            began = clock()
            run()
            times.append(clock() - began)
        return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0]

    def _runner(self, problem: AttentionProblem, direction: Pass, settings: Settings) -> Callable[[], Any]:
        engine = self._engine
        q, k, v, do = problem.make_inputs()
        if direction == "fwd":
            return lambda: engine.forward(problem, settings, q, k, v)
        forward = engine.forward(problem, settings, q, k, v, keep=True)
        return lambda: engine.backward(problem, settings, do, q, k, v, forward)

    def fixed(self, shape: Shape, blocks: Blocks) -> float:
        """What a call costs beside its tiles."""
        return self._tile_call(shape, blocks, (1, 1), heads=1)

    def tile(self, shape: Shape, blocks: Blocks, kind: Kind) -> float:
        """A tile of one kind."""
        key = (shape.dtype, shape.direction, shape.causal, blocks, kind)
        if key not in self._tiles:
            whole = self._tile_call(shape, blocks, kind, heads=TOGETHER)
            self._tiles[key] = max(0.0, whole - self.fixed(shape, blocks)) / TOGETHER
        return self._tiles[key]

    def _tile_call(self, shape: Shape, blocks: Blocks, kind: Kind, *, heads: int) -> float:
        """A call whose heads have one tile of that kind each, all over the same keys."""
        rows, keys = kind
        problem = AttentionProblem.of(
            rows,
            seqlen_k=keys,
            num_heads=heads,
            num_kv_heads=1,
            dtype=shape.dtype,  # type: ignore[arg-type]
            causal=shape.causal,
        )
        return self.call(problem, shape.direction, Settings(*blocks, num_threads=1))


class Starts(NamedTuple):
    """When the helpers of a call begin, in seconds: the first one, and how much later each further one."""

    first: float
    each: float

    def of(self, threads: int) -> list[float]:
        """The start of each thread."""
        return [0.0, *(self.first + self.each * helper for helper in range(threads - 1))]

    @classmethod
    def measured(cls, rounds: int, many: int = 64) -> Starts:
        """From calls with one helper and with many. The threads of each stay until the last one has begun."""
        one, all_ = (min(_last_start(helpers) for _ in range(3 * rounds)) for helpers in (1, many))
        return cls(one, (all_ - one) / (many - 1))


def _last_start(helpers: int) -> float:
    everyone, starts = threading.Barrier(1 + helpers), []

    def work(slot: int) -> None:
        starts.append(time.perf_counter())
        everyone.wait()

    began = time.perf_counter()
    run_on_threads(work, 1 + helpers)
    return max(starts) - began


class Prediction:
    """The predicted times of one shape."""

    def __init__(self, shape: Shape, timer: Timer, starts: Starts) -> None:
        _, self._blocks = plan_of(shape.problem, shape.direction, Settings(num_threads=1))
        self._shape, self._starts = shape, starts
        self._fixed = timer.fixed(shape, self._blocks)
        self._tiles = Tiles(shape.problem, self._blocks)
        self._times = {
            kind: timer.tile(shape, self._blocks, kind) for kind in set(map(_kind_of, self._tiles.each()))
        }

    def seconds(self, threads: int, *, at_once: bool) -> float:
        """A call's time when it may use so many threads. at_once: they all start at once."""
        used, _ = plan_of(self._shape.problem, self._shape.direction, Settings(num_threads=threads))
        starts = [0.0] * used if at_once else self._starts.of(used)
        simulate = SIMULATE[self._shape.direction]
        return self._fixed + simulate(self._tiles, lambda tile: self._times[_kind_of(tile)], starts)

    def efficiencies(self, *, at_once: bool) -> Iterator[str]:
        """A cell for each of THREADS."""
        one = self.seconds(1, at_once=at_once)
        for threads in THREADS:
            share = f"{100 * one / threads / self.seconds(threads, at_once=at_once):.0f}"
            yield share if self._tiles.tasks >= ENOUGH * threads else f"({share})"


def _kind_of(tile: Queries) -> Kind:
    return tile.rows, tile.end_key - tile.first_key


def compare(predictions: dict[Shape, Prediction], timer: Timer) -> None:
    """Print predicted beside measured times on one and two threads."""
    print("milliseconds | | | | | 1 thread | | | 2 threads | |")
    print("dtype | pass | mask | heads | N | predicted | measured | error | predicted | measured | error")
    print("|".join(["---"] * 11))
    worst = {1: 0.0, 2: 0.0}
    for shape, prediction in predictions.items():
        cells = []
        for threads in worst:
            said = prediction.seconds(threads, at_once=False)
            found = timer.call(shape.problem, shape.direction, Settings(num_threads=threads))
            worst[threads] = max(worst[threads], abs(said / found - 1))
            cells += [f"{1e3 * said:.2f}", f"{1e3 * found:.2f}", f"{100 * (said / found - 1):+.1f} %"]
        print(" | ".join((str(shape), *cells)), flush=True)
    print(
        "\n"
        + "; ".join(f"largest error with {n} thread(s): {100 * error:.1f} %" for n, error in worst.items())
    )


def print_efficiencies(predictions: dict[Shape, Prediction], *, at_once: bool) -> None:
    """Print the efficiency of each shape over THREADS."""
    print(f"\nEfficiency in percent, threads start {'at once' if at_once else 'as measured'}\n")
    print(" | ".join(("dtype", "pass", "mask", "heads", "N", *map(str, THREADS))))
    print("|".join(["---"] * (5 + len(THREADS))))
    for shape, prediction in predictions.items():
        print(" | ".join((str(shape), *prediction.efficiencies(at_once=at_once))))


def shapes(dtypes: Sequence[str], seq_lens: Sequence[int]) -> list[Shape]:
    """Those of configs/speed.toml, and the same with one head."""
    directions: tuple[Pass, ...] = ("fwd", "bwd")
    return [Shape(*values) for values in product(dtypes, directions, (False, True), (1, 8), seq_lens)]


def main() -> None:
    """Measure, replay, print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each kind")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--seq-lens", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    asked = parser.parse_args()
    timer, starts = Timer(asked.rounds), Starts.measured(asked.rounds)
    print(f"{describe_machine().cpu}, {asked.rounds} rounds")
    print(
        f"first helper after {1e6 * starts.first:.0f} us, each further one {1e6 * starts.each:.1f} us later\n"
    )
    predictions = {shape: Prediction(shape, timer, starts) for shape in shapes(asked.dtypes, asked.seq_lens)}
    compare(predictions, timer)
    for at_once in (True, False):
        print_efficiencies(predictions, at_once=at_once)


if __name__ == "__main__":
    main()
