"""Made-up results files of every kind, for tests of charts and of the page."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from flashbench.report.charts.series import Source
from flashbench.results.record import (
    Disturbance,
    Duel,
    Kind,
    Measurement,
    Process,
    Results,
    Threadpool,
)
from helpers.fake_results import MACHINE, make_measurement, make_results, make_time
from helpers.feature_rows import decode_rows, every_feature, length_rows, window_rows

ENGINES = ("flash", "standard", "numpy", "torch-flash")
FULL_MACHINE = replace(
    MACHINE,
    affinity=[0, 1],
    threads_per_core=2,
    virtual=True,
    swap_used_bytes=0,
    boost=False,
    others_cores=0.05,
    steal_percent=0.31,
    noise_floor=0.021,
    read_bandwidth_gbps=24.5,
)
PROCESS = Process(
    python="/usr/bin/python3",
    python_version="3.11.9",
    flashbench_version="0.1.0",
    environment={"OMP_NUM_THREADS": "2"},
    threadpools=[
        Threadpool(
            user_api="blas",
            internal_api="openblas",
            num_threads=2,
            version="0.3.31",
            threading_layer="pthreads",
            architecture="SkylakeX",
        )
    ],
    libraries={"numpy": "2.0.0"},
)


def make_profile(*, slower: float = 1.0, engines: Sequence[str] = ENGINES) -> Results:
    """Two kinds of problem, several engines, rows with every field, and every kind of failure."""
    rows = [
        make_measurement(engine, seqlen, causal=causal, num_heads=8, slower=slower)
        for causal in (False, True)
        for seqlen in (512, 1024, 4096)
        for engine in engines
    ]
    rows[0] = replace(
        rows[0],
        kernel="avx512",
        note="fell back to one thread",
        energy_joules=0.125,
        disturbance=Disturbance(moved=0.034, others_cores=0.2, steal_percent=1.5),
    )
    rows += [
        make_measurement("standard", 16384, num_heads=8, status="too_large", reason="needs 16.00 GB"),
        make_measurement("numpy", 16384, num_heads=8, status="wrong", reason="o is off by 0.25"),
        make_measurement("flash", 16384, num_heads=8, slower=slower),
    ]
    return replace(
        make_results(rows, machine=FULL_MACHINE),
        processes=dict.fromkeys(engines, PROCESS),
        warnings=["the governor is powersave: cpupower frequency-set -g performance"],
    )


def make_features() -> Results:
    """A window next to full attention, key lengths, every feature at once, decoding steps."""
    rows = [*window_rows("flash", "standard"), *length_rows(packed=True), *every_feature()]
    return make_results([*rows, *decode_rows("flash", "torch-flash")], machine=FULL_MACHINE)


def make_sweep() -> Results:
    """Three block sizes and auto at three lengths, one point too large."""
    slower = {16: 1.3, 32: 1.01, 64: 1.12, None: 1.0}
    rows = [
        make_measurement(
            "flash",
            seqlen,
            block=block,
            slower=factor if seqlen < 1024 or block != 64 else 0.97,
            spread=0.001,
            status="too_large" if (block, seqlen) == (16, 4096) else "ok",
            reason="needs 2.00 GB, 1.00 GB is free" if (block, seqlen) == (16, 4096) else None,
        )
        for seqlen in (128, 1024, 4096)
        for block, factor in slower.items()
    ]
    return make_results(rows, kind="sweep")


def make_scaling() -> Results:
    """Two engines at two lengths with 1, 2 and 8 threads."""
    speed_ups = {"flash": {1: 1.0, 2: 1.9, 8: 6.0}, "numpy": {1: 1.0, 2: 1.5, 8: 2.0}}
    rows = [
        replace(
            make_measurement(engine, seqlen, slower=1 / ratio),
            threads=threads,
            time=make_time(seqlen * 48_000 / ratio),
        )
        for engine, ratios in speed_ups.items()
        for seqlen in (512, 1024)
        for threads, ratio in ratios.items()
    ]
    return make_results(rows, machine=FULL_MACHINE)


def make_duel() -> Results:
    """Two duels, one of which could not be decided."""
    rows: list[Measurement] = []
    for seqlen in (512, 2048):
        rows += [
            replace(make_measurement("flash", seqlen), side="a"),
            replace(make_measurement("standard", seqlen), side="b"),
        ]
    duel = Duel(
        a=0,
        b=1,
        ratio=1.984,
        low=1.95,
        high=2.02,
        confidence=0.95,
        p_value=0.000031,
        p_holm=0.000062,
        threshold=0.02,
        orders=["ab", "ba", "ba", "ab", "ab"],
        looks=2,
        verdict="a_faster",
    )
    undecided = replace(
        duel,
        a=2,
        b=3,
        ratio=None,
        low=None,
        high=None,
        p_value=0.25,
        p_holm=0.25,
        verdict="inconclusive",
        reason="side B gave no time in 3 of 5 rounds",
    )
    return replace(
        make_results(rows, kind="duel"),
        duels=[duel, undecided],
        config={"kind": "duel", "a": {"engine": "flash", "python": None}, "study": {"seed": 0}, "looks": 2},
        processes={"a": PROCESS, "b": replace(PROCESS, python_version="3.12.1", python="/opt/python")},
    )


def make_empty(kind: Kind = "machine") -> Results:
    """A file without a measurement."""
    return make_results([], kind=kind)


def sources(*results: Results) -> list[Source]:
    """The results as sources named one, two, three."""
    return [Source(name, each) for name, each in zip(("one", "two", "three"), results, strict=False)]
