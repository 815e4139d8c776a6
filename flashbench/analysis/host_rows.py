"""Rows in which a host stands out among its peers: they take more memory there, or fail there alone."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from flashbench.analysis.pairs import memory_verdict
from flashbench.analysis.ratios import peak_bytes
from flashbench.analysis.row_keys import AnyKey
from flashbench.analysis.words import NO_REASON, STATUS_WORDS
from flashbench.results.record import AnyRow, Machine

Rows = Mapping[str, Mapping[AnyKey, AnyRow]]  # of each host


def failed_rows(rows: Rows, host: str) -> dict[AnyKey, str]:
    """Why rows of that host failed that are right on a peer."""
    return {
        key: f"{STATUS_WORDS[row.status]}: {row.reason or NO_REASON}"
        for key, row in rows[host].items()
        if row.status != "ok" and any(key in own and own[key].status == "ok" for own in rows.values())
    }


def memory_ratios(rows: Rows, host: str, fail_over: float) -> tuple[float | None, dict[AnyKey, float]]:
    """Bytes of all rows over those of the middle hosts, and the ratio of each row that takes more memory.

    The first is None if no row's memory was measured here and on a peer. Memory has no noise but that of the
    interpreter, so it needs no test.
    """
    own_bytes, middle_bytes = 0.0, 0.0
    more: dict[AnyKey, float] = {}
    for key in rows[host]:
        peaks = {name: peak for name, of in rows.items() if (peak := _peak(of.get(key))) is not None}
        if host not in peaks or len(peaks) < 2:
            continue
        own = peaks[host]
        middle = sum(peaks.values()) - own if len(peaks) == 2 else median(peaks.values())
        own_bytes, middle_bytes = own_bytes + own, middle_bytes + middle
        if memory_verdict(middle, own, fail_over) == "regressed":
            more[key] = own / max(1, middle)
    return (own_bytes / middle_bytes if middle_bytes else None), more


def disturbed_words(machine: Machine, rows: Mapping[AnyKey, AnyRow]) -> str:
    """What else used a host's cores before the run or meanwhile; empty if nothing is known to have."""
    found = [d for row in rows.values() if (d := getattr(row, "disturbance", None)) is not None]
    cores = max(one.others_cores or 0.0 for one in (machine, *found))
    steal = max((one.steal_percent or 0.0 for one in found), default=0.0)  # of the machine: since boot
    words = [
        f"other processes kept {cores:.1f} cores busy" if cores >= _BUSY_CORES else "",
        f"the hypervisor gave {steal:.0f} % of CPU time to other guests" if steal >= _STOLEN_PERCENT else "",
    ]
    return " and ".join(filter(None, words))


_BUSY_CORES = 0.1
_STOLEN_PERCENT = 1.0


def _peak(row: AnyRow | None) -> int | None:
    return peak_bytes(row) if row is not None and row.status == "ok" else None
