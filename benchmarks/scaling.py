"""How well would flash use many cores? Predicted from this machine's times of single tiles.

It takes some minutes of a quiet machine with two cores or more:

    python benchmarks/scaling.py --rounds 9

Measured: the time of each kind of tile on one thread (causal tiles differ), what a call costs beside its
tiles, and when the threads of a call start. Replayed: the order in which threads take tiles (`ticket_order`).
Predicted: a call's time on 1 to 192 threads, and its efficiency: the time of one thread over the time of all
threads together. Products are multiply-adds on vectors, path `fma`. Not in it: memory bandwidth, caches that
threads share, and clocks that fall when all cores are busy.

The first table compares predictions with whole calls, measured on one thread and on two. The others print
efficiency in percent: with threads that all start at once, and with threads that start as measured. In
parentheses: fewer than four tiles a thread.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from ticket_order import Tiles, backward_time, forward_time

from flashbench.codegen.atomics import fetch_add, look, nap
from flashbench.codegen.calls import call_address
from flashbench.codegen.pointers import at, pointer
from flashbench.engines import Settings, get_engine
from flashbench.engines.flash.block_sizes import Blocks, Pass
from flashbench.engines.flash.plan import plan_of
from flashbench.kernels.call.structs import Queries
from flashbench.measure.machine import describe_machine
from flashbench.problem import AttentionProblem, Inputs
from flashbench.threads.pool import run_kernel

PATH = "fma"  # other paths lay out keys before the first tile
THREADS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192)
TOGETHER = 8  # tiles of a kind in one timed call: they share k and v, as the tiles of a head do
ENOUGH = 4  # tiles a thread
MEASURED = (1, 2)  # threads
FIXED_CALLS = 100
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
        return self.problem_of(self.seqlen, self.seqlen, heads=self.heads, kv_heads=self.heads)

    def problem_of(self, queries: int, keys: int, *, heads: int, kv_heads: int) -> AttentionProblem:
        """A problem of other sizes."""
        return AttentionProblem.of(
            queries,
            seqlen_k=keys,
            num_heads=heads,
            num_kv_heads=kv_heads,
            dtype=self.dtype,
            causal=self.causal,
        )

    def __str__(self) -> str:
        words = (self.dtype, self.direction, "causal" if self.causal else "full")
        return " | ".join((*words, str(self.heads), str(self.seqlen)))


class Times(NamedTuple):
    """Seconds: lower quartiles of the rounds."""

    fixed: float  # what a call costs beside its tiles: the least of many calls
    tiles: dict[Kind, float]
    whole: dict[int, float]  # of a call of the shape, by its number of threads


def measure(shape: Shape, kinds: Counter[Kind], blocks: Blocks, rounds: int) -> Times:
    """Time each kind of tile, and whole calls, in turns: so that all meet the same machine.

    A round runs about as many tiles of a kind as a whole call has. With one thread it is CPU time, which
    leaves out what other processes take. kinds: with their numbers of tiles.
    """
    inputs = shape.problem.make_inputs()
    one = Settings(*blocks, num_threads=1, path=PATH)
    calls = {kind: _tile_call(shape, kind, inputs, one) for kind in kinds}
    fixed = _tile_call(shape, (1, 1), inputs, one, heads=1)
    whole = {
        n: _call(shape.problem, shape.direction, Settings(num_threads=n, path=PATH), inputs) for n in MEASURED
    }
    found: dict[Any, list[float]] = {}
    for _ in range(1 + rounds):
        for name, call in (*calls.items(), *whole.items()):
            clock = time.perf_counter if name in MEASURED[1:] else time.thread_time
            times = [_timed(call, clock) for _ in range(max(1, kinds[name] // TOGETHER))]
            found.setdefault(name, []).append(statistics.fmean(times))
    low = {name: statistics.quantiles(times[1:], n=4)[0] for name, times in found.items()}
    beside = min(_timed(fixed, time.thread_time) for _ in range(FIXED_CALLS))
    tiles = {kind: max(0.0, low[kind] - beside) / TOGETHER for kind in kinds}
    return Times(beside, tiles, {threads: low[threads] for threads in MEASURED})


def _timed(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def _tile_call(
    shape: Shape, kind: Kind, inputs: Inputs, settings: Settings, heads: int = TOGETHER
) -> Callable[[], Any]:
    """A call whose heads have one tile of that kind each, all over the same keys."""
    rows, keys = kind
    problem = shape.problem_of(rows, keys, heads=heads, kv_heads=1)
    q, _, _, do = problem.make_inputs()
    _, k, v, _ = (x[:, :1, :keys] for x in inputs)
    return _call(problem, shape.direction, settings, Inputs(q, k, v, do))


def _call(
    problem: AttentionProblem, direction: Pass, settings: Settings, inputs: Inputs
) -> Callable[[], Any]:
    engine = get_engine("flash")
    q, k, v, do = inputs
    if direction == "fwd":
        return lambda: engine.forward(problem, settings, q, k, v)
    forward = engine.forward(problem, settings, q, k, v, keep=True)
    return lambda: engine.backward(problem, settings, do, q, k, v, forward)


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


# Cells of `_arrive`: the address of clock_gettime, the number of threads, how many of them have begun, and
# for each of them when, in seconds and nanoseconds.
_CLOCK, _THREADS, _BEGUN, _STARTS = range(4)


@njit(nogil=True)
def _arrive(address, slot):
    """Note when the thread begins, and stay until all have begun."""
    cells = pointer(0, address)
    call_address(cells[_CLOCK], (time.CLOCK_MONOTONIC, address + 8 * (_STARTS + 2 * slot)))
    fetch_add(at(cells, _BEGUN), 1)
    while look(at(cells, _BEGUN)) < at(cells, _THREADS)[0]:
        nap()


def _last_start(helpers: int) -> float:
    cells = np.zeros(_STARTS + 2 * (1 + helpers), np.int64)
    cells[_CLOCK] = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value
    cells[_THREADS] = 1 + helpers
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    run_kernel(_arrive, cells.ctypes.data, 1 + helpers)
    return float(max(cells[_STARTS::2] + 1e-9 * cells[_STARTS + 1 :: 2]) - began)


class Prediction:
    """The predicted times of one shape."""

    def __init__(self, shape: Shape, starts: Starts, rounds: int) -> None:
        _, self._blocks = plan_of(shape.problem, shape.direction, Settings(num_threads=1, path=PATH))
        self._shape, self._starts = shape, starts
        tiles = Tiles(shape.problem, self._blocks, threads=1)
        self._tasks = tiles.tasks
        self.measured = measure(shape, Counter(map(_kind_of, tiles.each())), self._blocks, rounds)

    def seconds(self, threads: int, *, at_once: bool) -> float:
        """A call's time when it may use so many threads. at_once: they all start at once."""
        used, _ = plan_of(
            self._shape.problem, self._shape.direction, Settings(num_threads=threads, path=PATH)
        )
        starts = [0.0] * used if at_once else self._starts.of(used)
        tiles = Tiles(self._shape.problem, self._blocks, used)
        times = self.measured.tiles
        simulate = SIMULATE[self._shape.direction]
        return self.measured.fixed + simulate(tiles, lambda tile: times[_kind_of(tile)], starts)

    def efficiencies(self, *, at_once: bool) -> Iterator[str]:
        """A cell for each of THREADS."""
        one = self.seconds(1, at_once=at_once)
        for threads in THREADS:
            share = f"{100 * one / threads / self.seconds(threads, at_once=at_once):.0f}"
            yield share if self._tasks >= ENOUGH * threads else f"({share})"


def _kind_of(tile: Queries) -> Kind:
    return tile.rows, tile.end_key - tile.first_key


def compare(predictions: dict[Shape, Prediction]) -> None:
    """Print predicted beside measured times."""
    headers = [f"{word}, {n} thread(s)" for n in MEASURED for word in ("predicted ms", "measured", "error")]
    print(" | ".join(("dtype", "pass", "mask", "heads", "N", *headers)))
    print("|".join(["---"] * (5 + len(headers))))
    errors: dict[int, list[float]] = {threads: [] for threads in MEASURED}
    for shape, prediction in predictions.items():
        cells = []
        for threads, found in prediction.measured.whole.items():
            said = prediction.seconds(threads, at_once=False)
            errors[threads].append(said / found - 1)
            cells += [f"{1e3 * said:.2f}", f"{1e3 * found:.2f}", f"{100 * (said / found - 1):+.1f} %"]
        print(" | ".join((str(shape), *cells)))
    for threads, values in errors.items():
        size = sorted(map(abs, values))
        print(
            f"\n{threads} thread(s): error {100 * statistics.median(size):.1f} % in the median, "
            f"{100 * size[-1]:.1f} % at most"
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
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each kind, 2 or more")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--seq-lens", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    asked = parser.parse_args()
    starts = Starts.measured(asked.rounds)
    print(f"{describe_machine().cpu}, {asked.rounds} rounds")
    print(
        f"first helper after {1e6 * starts.first:.0f} us, each further one {1e6 * starts.each:.1f} us later\n"
    )
    predictions = {
        shape: Prediction(shape, starts, asked.rounds) for shape in shapes(asked.dtypes, asked.seq_lens)
    }
    compare(predictions)
    for at_once in (True, False):
        print_efficiencies(predictions, at_once=at_once)


if __name__ == "__main__":
    main()
