"""What views of (batch, seqlen, heads, head_dim) arrays cost `flash`: models call it with such views.

It takes a minute of a quiet machine:

    python benchmarks/layouts.py

Time with views over time with contiguous (batch, heads, seqlen, head_dim) arrays: float32, batch 1, one
thread, the lowest of `--rounds` calls.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flashbench.engines import Settings, get_engine
from flashbench.measure.machine import describe_machine
from flashbench.problem import AttentionProblem

SIZES = ((512, 8, 64), (2048, 8, 64), (1024, 32, 64), (1024, 16, 128), (1024, 4, 32))  # N, heads, head_dim


def by_rows(x: Any) -> Any:
    """The same numbers as a view of a (batch, seqlen, heads, head_dim) array."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


def calls_of(seqlen: int, heads: int, head_dim: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """Calls to time, by direction and layout."""
    engine, settings = get_engine("flash"), Settings(num_threads=1)
    problem = AttentionProblem.of(seqlen, num_heads=heads, head_dim=head_dim, dtype="float32")
    inputs = problem.make_inputs()
    found: dict[tuple[str, str], Callable[[], Any]] = {}
    for layout, placed in (("heads", lambda x: x), ("rows", by_rows)):
        q, k, v = map(placed, (inputs.q, inputs.k, inputs.v))
        forward = engine.forward(problem, settings, q, k, v)
        do = placed(np.ones(forward.o.shape, np.float32))
        arrays = (q, k, v)
        found["fwd", layout] = lambda arrays=arrays: engine.forward(problem, settings, *arrays)
        found["bwd", layout] = lambda do=do, arrays=arrays, forward=forward: engine.backward(
            problem, settings, do, *arrays, forward
        )
    return found


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"float32, {describe_machine().cpu}\n")
    print("| N | heads | head_dim | forward | backward |\n|---|---|---|---|---|")
    for size in SIZES:
        calls = calls_of(*size)
        lowest = dict.fromkeys(calls, float("inf"))
        for _ in range(rounds):
            for key, call in calls.items():
                start = time.perf_counter()
                call()
                lowest[key] = min(lowest[key], time.perf_counter() - start)
        ratios = [lowest[direction, "rows"] / lowest[direction, "heads"] for direction in ("fwd", "bwd")]
        print(f"| {' | '.join(map(str, size))} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
