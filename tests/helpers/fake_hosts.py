"""Hosts of a cluster from a formula and seeded noise, for tests of verdicts on hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.random import Generator

from flashbench.results.record import Results, Time
from helpers.fake_inference import make_inference
from helpers.fake_results import MACHINE, make_measurement, make_results
from helpers.fake_training import ARMS, make_step, make_training

# Relative standard deviations: between hosts, between the rounds of a host (its clock, other guests), between
# the processes of a round (their memory layout), and between the calls of a process.
BETWEEN_HOSTS, BETWEEN_ROUNDS, BETWEEN_PROCESSES, BETWEEN_CALLS = 0.01, 0.005, 0.01, 0.02
# One process in so many is disturbed by others, and takes so much longer.
DISTURBED_ONE_IN, DISTURBED = 25, 1.15
ROWS = (("flash", 512), ("flash", 2048), ("standard", 512), ("standard", 2048))


def make_host(
    name: str,
    seed: int,
    *,
    slower: float = 1.0,
    slower_rows: Mapping[int, float] | None = None,
    rounds: int = 6,
    of: Results | None = None,
    **machine: Any,
) -> Results:
    """A host's results: those of the formula with noise, times multiplied by `slower`.

    slower_rows: further factors of single rows, by place. of: the results without noise (default `ROWS`).
    """
    rng = np.random.default_rng(seed)
    base = of or make_results([make_measurement(engine, n) for engine, n in ROWS])
    own = slower * np.exp(rng.normal(0, BETWEEN_HOSTS))
    of_rounds = np.exp(rng.normal(0, BETWEEN_ROUNDS, rounds))
    places = iter(range(len(base.rows)))

    def noisy(rows: Sequence[Any]) -> list[Any]:
        found = []
        for row in rows:
            factor = own * (slower_rows or {}).get(next(places), 1.0)
            time = None if row.time is None else _time(rng, row.time.median_ns * factor * of_rounds)
            found.append(msgspec.structs.replace(row, time=time))
        return found

    limits = {
        "peak_gflops": {
            path: peak * float(np.exp(rng.normal(0, 0.01))) for path, peak in base.machine.peak_gflops.items()
        },
        "read_bandwidth_gbps": 20.0 * float(np.exp(rng.normal(0, 0.01))),
    }
    return msgspec.structs.replace(
        base,
        machine=msgspec.structs.replace(base.machine, **{"host": name, **limits, **machine}),
        measurements=noisy(base.measurements),
        training=noisy(base.training),
        inference=noisy(base.inference),
    )


def make_cluster(hosts: Sequence[Results]) -> Results:
    """The file of a run on these hosts."""
    outer = msgspec.structs.replace(MACHINE, host="login", cpu="Login CPU", peak_gflops={})
    return msgspec.structs.replace(
        make_results([], machine=outer, kind=hosts[0].kind), hosts=list(hosts), config={"each_node": True}
    )


def make_hosts(
    count: int, seed: int, *, slow: Mapping[int, float] | None = None, **options: Any
) -> list[Results]:
    """`count` hosts named node0, node1 and so on. slow: factors of some times, by number."""
    return [
        make_host(f"node{number}", 1000 * seed + number, slower=(slow or {}).get(number, 1.0), **options)
        for number in range(count)
    ]


def training_steps() -> Results:
    """Two contexts of every arm, without noise."""
    return make_training([make_step(arm, context) for context in (512, 1024) for arm in ARMS])


def inference_tests() -> Results:
    """All arms, both tests, two depths, without noise."""
    return make_inference()


def _time(rng: Generator, medians_ns: np.ndarray) -> Time:
    """One process a round."""
    processes = medians_ns * np.exp(rng.normal(0, BETWEEN_PROCESSES, len(medians_ns)))
    processes *= np.where(rng.random(len(medians_ns)) < 1 / DISTURBED_ONE_IN, DISTURBED, 1.0)
    samples = [
        [round(process * float(np.exp(rng.normal(0, BETWEEN_CALLS)))) for _ in range(5)]
        for process in processes
    ]
    flat = sorted(sample for process in samples for sample in process)
    low, median, high = (float(value) for value in np.percentile(flat, (25, 50, 75)))
    return Time(samples_ns=samples, median_ns=median, low_ns=low, high_ns=high, minimum_ns=float(flat[0]))
