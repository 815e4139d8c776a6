"""Files for the exporters: a small profile, one with failures, a duel."""

from __future__ import annotations

import msgspec

from flashbench.results.record import Duel, Measurement, Process, Results, Side
from helpers.fake_results import MACHINE, READ_BANDWIDTH_GBPS, make_measurement, make_results, make_time
from helpers.feature_rows import decode_rows, every_feature, window_rows


def small_profile() -> Results:
    """Two lengths, grouped heads, both directions, fixed blocks beside auto."""
    return make_results(
        [
            make_measurement("standard", 128),
            make_measurement("flash", 128),
            make_measurement("flash", 128, block=32),
            make_measurement(
                "flash", 512, direction="bwd", num_heads=8, num_kv_heads=2, dtype="float32", causal=True
            ),
        ]
    )


def with_features() -> Results:
    """Each optional feature, and a step of decoding."""
    machine = msgspec.structs.replace(MACHINE, read_bandwidth_gbps=READ_BANDWIDTH_GBPS)
    return make_results(
        [*every_feature(), *decode_rows("flash")[:1], *window_rows("flash")[:2]], machine=machine
    )


def with_failures() -> Results:
    """One correct measurement, and one of each kind without a usable time."""
    not_timed = make_measurement("numpy", 64)
    return make_results(
        [
            make_measurement("flash", 64),
            make_measurement("flash", 64, block=7, status="crashed", reason="killed by signal 11"),
            make_measurement("standard", 64, status="wrong", reason="error 0.25 is above 1e-12"),
            make_measurement("standard", 65536, status="too_large", reason="needs 32.00 GB | has 16.00 GB"),
            make_measurement("numpy", 64, status="unsupported"),
            msgspec.structs.replace(not_timed, time=None, rates=None),
        ]
    )


def make_duel(*, slower: float = 1.2, processes: int = 9) -> Results:
    """Flash against itself in two environments, at two lengths, the second one too noisy to judge."""
    rows = [
        _side("a", 512, processes=processes),
        _side("b", 512, slower=slower, processes=processes),
        _side("a", 1024, processes=processes),
        _side("b", 1024, slower=1.05, processes=processes),
    ]
    results = make_results(rows, kind="duel")
    process = Process(
        python=".venv-base/bin/python",
        python_version="3.11.9",
        flashbench_version="0.1.0",
        environment={"FLASHBENCH_NUM_THREADS": "2"},
    )
    common = {"confidence": 0.95, "threshold": 0.05, "orders": ["ab", "ba", "ba"] * 3, "looks": 1}
    side = {"engine": "flash", "python": ".venv/bin/python"}
    return msgspec.structs.replace(
        results,
        config={"a": side, "b": side, "threshold": 0.05, "looks": 1},
        processes={"a": process, "b": msgspec.structs.replace(process, flashbench_version="0.2.0")},
        duels=[
            Duel(
                a=0,
                b=1,
                ratio=slower,
                low=1.18,
                high=1.22,
                p_value=0.0039,
                p_holm=0.0078,
                verdict="regressed",
                **common,
            ),
            Duel(
                a=2,
                b=3,
                ratio=1.05,
                low=0.98,
                high=1.12,
                p_value=0.2,
                p_holm=0.2,
                verdict="inconclusive",
                reason="the interval holds 5%",
                **common,
            ),
        ],
    )


def _side(side: Side, seqlen: int, *, slower: float = 1.0, processes: int) -> Measurement:
    row = make_measurement("flash", seqlen, slower=slower)
    assert row.time is not None
    return msgspec.structs.replace(
        row, side=side, time=make_time(row.time.median_ns, processes=processes, calls=3)
    )
