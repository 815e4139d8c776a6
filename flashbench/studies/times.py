"""The record of timed calls."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.measure.statistics import spread
from flashbench.results.record import Time


def time_record(samples_ns: Sequence[Sequence[int]]) -> Time | None:
    """From single calls in nanoseconds, process by process; None without any."""
    if not samples_ns:
        return None
    found = spread([sample for process in samples_ns for sample in process])
    return Time(
        samples_ns=[list(process) for process in samples_ns],
        median_ns=found.median,
        low_ns=found.low,
        high_ns=found.high,
        minimum_ns=found.minimum,
        outliers=found.outliers,
    )
