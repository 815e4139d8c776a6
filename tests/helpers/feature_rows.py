"""Made-up measurements of optional features: windows beside each other, decoding, lengths of sequences."""

from __future__ import annotations

import msgspec

from flashbench.results.record import Measurement, Results
from helpers.fake_results import MACHINE, READ_BANDWIDTH_GBPS, make_measurement, make_results

WINDOWS = ((None, None), (256, 0))


def window_rows(*engines: str, window_only: bool = False) -> list[Measurement]:
    """Causal attention with a window of 256, next to full attention unless that is left out."""
    return [
        make_measurement(
            engine, seqlen, causal=True, num_heads=8, dtype="float32", window=window, softcap=50.0
        )
        for seqlen in (4096, 16384, 131072)
        for window in WINDOWS[window_only:]
        for engine in engines
    ]


def failing_window_rows() -> list[Measurement]:
    """Full attention that is too large, and an engine without windows."""
    rows = window_rows("flash", "standard")
    failed = {
        ("standard", "window"): ("unsupported", "the engine has no window"),
        ("standard", None): ("too_large", "needs 64.0 GiB, this machine has 12.0 GiB free"),
    }
    found = []
    for row in rows:
        what = failed.get((row.engine, "window" if "window" in row.problem.features else None))
        if what is None or (row.problem.seqlen_q == 4096 and what[0] == "too_large"):
            found.append(row)
        else:
            status, reason = what
            found.append(
                msgspec.structs.replace(
                    row, status=status, reason=reason, time=None, memory=None, accuracy=None, rates=None
                )
            )
    return found


def decode_rows(*engines: str, queries: int = 1, slower: float = 1.0, **sizes: object) -> list[Measurement]:
    """Decoding steps of a model with 32 query heads and 8 key heads."""
    return [
        make_measurement(
            engine,
            queries,
            seqlen_k=keys,
            num_heads=32,
            num_kv_heads=8,
            head_dim=128,
            dtype="float32",
            slower=slower,
            **sizes,
        )
        for keys in (2048, 16384, 131072)
        for engine in engines
    ]


def decode_results(rows: list[Measurement]) -> Results:
    """Decoding results of a machine with a measured read bandwidth."""
    machine = msgspec.structs.replace(MACHINE, read_bandwidth_gbps=READ_BANDWIDTH_GBPS)
    return make_results(rows, machine=machine)


def length_rows(*, packed: bool = False) -> list[Measurement]:
    """Four sequences of a quarter, a half, three quarters and all of each length."""
    rows = []
    for seqlen in (500, 1000, 2002):
        lengths = tuple(seqlen * quarters // 4 for quarters in (1, 2, 3, 4))
        fields = {"query_lengths": lengths} if packed else {}
        rows += [
            make_measurement(engine, seqlen, batch=4, key_lengths=lengths, **fields)
            for engine in ("standard", "flash")
        ]
    return rows


def every_feature() -> list[Measurement]:
    """Every feature, so that a title has many words."""
    return [
        make_measurement(
            "flash",
            1024,
            batch=2,
            window=(128, 0),
            softcap=50.0,
            alibi=True,
            sinks=True,
            mask="float",
            mask_axes="hqk",
            dropout=0.1,
            dropout_seed=7,
            key_lengths=(256, 1024),
            query_lengths=(512, 1024),
            page_size=16,
        )
    ]
