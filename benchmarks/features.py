"""What each optional feature costs the flash engine, and how exact it is.

It takes ten minutes of a quiet machine:

    python benchmarks/features.py --rounds 5

Cost: GFLOP/s of the visible pairs as a share of plain attention's, at N = 2048. Each round starts a fresh
process, which times each feature right after plain attention. The table shows the median of the rounds'
ratios, with the lowest and the highest. Exactness: the largest error over all float64 cases of `flashbench
verify` whose problem has the feature.
"""

from __future__ import annotations

import argparse
import random
import statistics
from typing import Any

from flashbench.engines import Settings
from flashbench.measure.machine import describe_machine
from flashbench.measure.worker import Worker
from flashbench.problem import AttentionProblem
from flashbench.studies import workload
from flashbench.studies.cases import all_cases
from flashbench.studies.study import Point
from flashbench.studies.verify import verify

N = 2048
PLAIN = "plain"
# What is timed, by the name of its row: a feature as people use it.
FEATURES: dict[str, dict[str, Any]] = {
    "window 512 + 512": {"window": (512, 512)},
    "window 512, causal": {"window": (512, 0), "causal": True},
    "softcap 50": {"softcap": 50.0},
    "softcap 5": {"softcap": 5.0},
    "ALiBi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool mask": {"mask": "bool"},
    "bool mask of keys": {"mask": "bool", "mask_axes": "k"},
    "float mask": {"mask": "float"},
    "float mask of keys": {"mask": "float", "mask_axes": "k"},
    "key lengths": {"batch": 4, "key_lengths": (512, 1024, 1536, 2048)},
    "varlen": {"batch": 4, "query_lengths": (N,) * 4, "key_lengths": (N,) * 4},
    "dropout 0.1": {"dropout": 0.1},
    "causal": {"causal": True},
}
BURST_NS, BURST_CALLS = 60_000_000, 20


def point(name: str, dtype: str, direction: str, heads: int) -> Point:
    """Four heads, in one sequence or in four of one head each."""
    features = FEATURES.get(name, {})
    heads = max(1, heads // features.get("batch", 1))
    problem = AttentionProblem.of(N, num_heads=heads, dtype=dtype, **features)  # type: ignore[arg-type]
    return Point(problem, "flash", direction, Settings())  # type: ignore[arg-type]


def costs(dtype: str, direction: str, rounds: int, threads: int, heads: int) -> dict[str, list[float]]:
    """GFLOP/s of each feature over those of plain attention just before, round by round."""
    found: dict[str, list[float]] = {name: [] for name in FEATURES}
    for number in range(rounds):
        with Worker(threads, timeout_s=600.0) as worker:
            worker.prepare(
                PLAIN, workload.FACTORY, workload.arguments(point(PLAIN, dtype, direction, heads), 0)
            )
            for name in random.Random(number).sample(list(FEATURES), len(FEATURES)):
                this = point(name, dtype, direction, heads)
                worker.prepare(name, workload.FACTORY, workload.arguments(this, 0))
                rates = []
                for slot, problem in (
                    (PLAIN, point(PLAIN, dtype, direction, heads).problem),
                    (name, this.problem),
                ):
                    burst = worker.time(slot, 3, at_least_ns=BURST_NS, at_most=BURST_CALLS)
                    rates.append(problem.flops(this.direction) / statistics.median(burst.samples_ns))
                found[name].append(rates[1] / rates[0])
                worker.release(name)
    return found


def exactness() -> dict[str, tuple[int, float, float]]:
    """For each feature: its float64 cases in verify, and their largest errors of o and of a gradient."""
    cases = [case for case in all_cases() if case.problem.dtype == "float64" and case.problem.features]
    errors: dict[str, tuple[int, float, float]] = {}
    for result in verify(["flash"], cases).results:
        assert not result.failed, result
        outputs = {name: deviation.error or 0.0 for name, deviation in result.outputs.items()}
        forward = outputs.get("o", 0.0)
        backward = max((error for name, error in outputs.items() if name.startswith("d")), default=0.0)
        for feature in result.problem.features:
            count, worst, worst_gradient = errors.get(feature, (0, 0.0, 0.0))
            errors[feature] = count + 1, max(worst, forward), max(worst_gradient, backward)
    return errors


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="one keeps other processes' noise away")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--no-exactness", action="store_true")
    asked = parser.parse_args()
    machine = describe_machine()
    print(f"N = {N}, head_dim 64, {asked.threads} thread(s), {asked.rounds} rounds, {machine.cpu}\n")
    columns = [(dtype, direction) for dtype in ("float32", "float64") for direction in ("fwd", "bwd")]
    print("| feature | " + " | ".join(f"{dtype} {direction}" for dtype, direction in columns) + " |")
    print("|---|" + "---|" * len(columns))
    measured = [costs(*column, asked.rounds, asked.threads, asked.heads) for column in columns]
    for name in FEATURES:
        cells = []
        for column in measured:
            ratios = sorted(column[name])
            cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    if not asked.no_exactness:
        print("\n| feature | cases in float64 | largest error of o | of a gradient |\n|---|---|---|---|")
        for feature, (count, forward, backward) in sorted(exactness().items()):
            print(f"| {feature} | {count} | {forward:.1e} | {backward:.1e} |")


if __name__ == "__main__":
    main()
