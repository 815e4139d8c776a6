"""How often `duel` is wrong on this machine: it calls equal sides different, or misses a slower side.

It takes the better part of an hour of a quiet machine:

    python benchmarks/duel_trials.py --equal 200 --slowed 100 --save results/duel-trials.json

Equal: flash against itself at a threshold of 5 %. Slowed: flash against the engine `slowed` of
tests/example_plugin, each of whose calls takes a tenth longer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from flashbench.measure.machine import describe_machine
from flashbench.studies.duel import Contestant, DuelStudy, fight
from flashbench.studies.study import Study

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the example plug-in is one of the tests'
from helpers import plugins

THRESHOLD = 0.05
SLOWED_BY = 0.10


def trial(a: str, b: str, seqlen: int) -> dict[str, object]:
    """One duel, as the row that is kept of it."""
    study = Study(engines=[a], seq_lens=[seqlen], memory=False)
    started = time.monotonic()
    results = fight(
        DuelStudy(a=Contestant(engine=a), b=Contestant(engine=b), study=study, threshold=THRESHOLD),
        command=[],
    )
    (duel,) = results.duels
    return {
        "a": a,
        "b": b,
        "verdict": duel.verdict,
        "ratio": duel.ratio,
        "low": duel.low,
        "high": duel.high,
        "p_value": duel.p_value,
        "rounds": len(duel.orders),
        "seconds": round(time.monotonic() - started, 2),
        "others_cores": max(
            row.disturbance.others_cores or 0.0 for row in results.measurements if row.disturbance
        ),
    }


def summary(trials: list[dict[str, object]]) -> str:
    """Verdicts, rounds and time of one kind of trial."""
    counts = Counter(str(one["verdict"]) for one in trials)
    seconds = sorted(float(str(one["seconds"])) for one in trials)
    rounds = Counter(int(str(one["rounds"])) for one in trials)
    ratios = sorted(float(str(one["ratio"])) for one in trials)
    return (
        f"{len(trials)} duels: {dict(counts)}; rounds {dict(sorted(rounds.items()))}; ratios "
        f"{ratios[0]:.3f} to {ratios[-1]:.3f}, median {ratios[len(ratios) // 2]:.3f}; seconds a duel: median "
        f"{seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}"
    )


def main() -> None:
    """Fight them all, alternating kinds, and keep every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--equal", type=int, default=200)
    parser.add_argument("--slowed", type=int, default=100)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--save", type=Path, required=True)
    asked = parser.parse_args()
    install_plugin()
    kinds = {"equal": ("flash", "flash", asked.equal), "slowed": ("flash", "slowed", asked.slowed)}
    found: dict[str, list[dict[str, object]]] = {kind: [] for kind in kinds}
    while any(len(found[kind]) < kinds[kind][2] for kind in kinds):
        # The kind that is furthest behind its share is next: both meet the machine's good and bad hours.
        kind = min(kinds, key=lambda kind: len(found[kind]) / max(1e-9, kinds[kind][2]))
        a, b, _ = kinds[kind]
        found[kind].append(trial(a, b, asked.seq_len))
        document = {"cpu": describe_machine().cpu, "seqlen": asked.seq_len, "threshold": THRESHOLD, **found}
        asked.save.write_text(json.dumps(document, indent=1) + "\n")
        last = found[kind][-1]
        print(kind, len(found[kind]), last["verdict"], f"{last['ratio']:.3f}", last["seconds"], flush=True)
    for kind, trials in found.items():
        if trials:
            print(f"{kind}: {summary(trials)}")


def install_plugin() -> None:
    """Make the example plug-in's engine known to this process and its workers."""
    directory = Path(tempfile.mkdtemp(prefix="flashbench-trials-"))
    plugins.offer(directory, {"slowed": "flashbench_slowed:SlowedEngine"}, "slowed")
    sys.path[:0] = [str(directory), str(plugins.EXAMPLE)]
    os.environ["FLASHBENCH_SLOWED_BY"] = str(SLOWED_BY)


if __name__ == "__main__":
    main()
