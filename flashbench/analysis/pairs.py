"""A row in two results files: its change, how certain it is, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flashbench.analysis.ratios import memory_ratio, peak_bytes, time_ratio
from flashbench.analysis.verdict import ALPHA, judge, status_verdict
from flashbench.measure.statistics import (
    Interval,
    holm,
    mann_whitney_p,
    process_medians,
    smallest_mann_whitney_p,
    unpaired_ratio,
)
from flashbench.results.record import AnyRow, Verdict

# memray counts whole allocations. Those of the interpreter vary by about a page.
MEMORY_NOISE_BYTES = 4096


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One row of both files."""

    base: AnyRow
    new: AnyRow
    time_ratio: float | None  # new median over base median; None unless both have one
    time_low: float | None  # its 95 % interval by bootstrap over processes; None with one process a side
    time_high: float | None
    p_value: float | None  # Mann-Whitney, of process medians
    p_holm: float | None  # the same, adjusted for the number of pairs with a time
    processes: tuple[int, int]  # of base and new
    memory_ratio: float | None
    verdict: Verdict
    note: str | None = None  # a reason that the figures do not show


def judge_pairs(sides: Sequence[tuple[AnyRow, AnyRow]], fail_over: float) -> list[Pair]:
    """Every pair, with its p-value adjusted for the number of p-values."""
    raw = [p_value(base, new) for base, new in sides]
    adjusted = iter(holm([p for p in raw if p is not None]))
    tested = sum(p is not None for p in raw)
    return [
        _judge(base, new, p, None if p is None else next(adjusted), tested, fail_over)
        for (base, new), p in zip(sides, raw, strict=True)
    ]


def p_value(base: AnyRow, new: AnyRow) -> float | None:
    """The Mann-Whitney p-value; None without a valid time on both sides."""
    if base.status != "ok" or new.status != "ok" or not base.time or not new.time:
        return None
    medians = [process_medians(time.samples_ns) for time in (base.time, new.time)]
    return mann_whitney_p(*medians) if all(medians) else None


def _judge(
    base: AnyRow, new: AnyRow, p: float | None, p_holm: float | None, tested: int, fail_over: float
) -> Pair:
    verdict, note = status_verdict(base, new)
    interval = None
    if verdict is None:
        verdict, note = "inconclusive", "time not measured"
        if base.time and new.time:
            interval = unpaired_ratio(
                process_medians(base.time.samples_ns), process_medians(new.time.samples_ns)
            )
            verdict, note = _time_verdict(base, new, interval, p_holm, tested, fail_over)
        memory = _memory_verdict(base, new, fail_over)
        if memory is not None and not (base.time and new.time):
            verdict, note = memory, None
        if memory == "regressed" and verdict != "regressed":
            verdict, note = "regressed", "more memory"
        if base == new and verdict != "same":  # too few samples to exclude chance
            verdict, note = "same", "the same measurement"
    return Pair(
        base=base,
        new=new,
        time_ratio=time_ratio(new, base),
        time_low=interval and interval.low,
        time_high=interval and interval.high,
        p_value=p,
        p_holm=p_holm,
        processes=(processes_of(base), processes_of(new)),
        memory_ratio=memory_ratio(new, base),
        verdict=verdict,
        note=note,
    )


def _time_verdict(
    base: AnyRow,
    new: AnyRow,
    interval: Interval | None,
    p_holm: float | None,
    tested: int,
    fail_over: float,
) -> tuple[Verdict, str | None]:
    if _is_single(base) or _is_single(new):
        return "inconclusive", "no samples"
    processes = processes_of(base), processes_of(new)
    if interval is None or p_holm is None or tested * smallest_mann_whitney_p(*processes) > ALPHA:
        return "inconclusive", f"{processes[0]} and {processes[1]} processes"
    return judge(interval, p_holm, fail_over), None


def least_processes(tested: int) -> int:
    """The fewest processes a side with which the Mann-Whitney test, adjusted for that many pairs, can reject.

    >>> least_processes(1), least_processes(10)
    (4, 6)
    """
    processes = 1
    while tested * smallest_mann_whitney_p(processes, processes) > ALPHA:
        processes += 1
    return processes


def _memory_verdict(base: AnyRow, new: AnyRow, fail_over: float) -> Verdict | None:
    old, late = peak_bytes(base), peak_bytes(new)
    return None if old is None or late is None else memory_verdict(old, late, fail_over)


def memory_verdict(old: float, late: float, fail_over: float) -> Verdict:
    """The verdict on two peaks in bytes, which have no noise but that of the interpreter."""
    if abs(late - old) <= MEMORY_NOISE_BYTES:
        return "same"
    if late > old * (1 + fail_over):
        return "regressed"
    return "improved" if late < old / (1 + fail_over) else "same"


def processes_of(row: AnyRow) -> int:
    """Processes that measured a time."""
    return sum(map(bool, row.time.samples_ns)) if row.time else 0


def _is_single(row: AnyRow) -> bool:
    """Whether the time is a single figure from elsewhere, not a sample."""
    return row.time is not None and sum(map(len, row.time.samples_ns)) <= 1
