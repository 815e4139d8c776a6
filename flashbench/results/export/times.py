"""A measurement's time, as the exporters read it."""

from __future__ import annotations

import statistics

from flashbench.results.record import Measurement, Time


def usable_time(row: Measurement) -> Time | None:
    """The measurement's time; None if it has none, or if the result was wrong."""
    return row.time if row.status == "ok" else None


def process_samples_ns(time: Time) -> list[list[float]]:
    """The samples, one list per process with samples; the median alone if the file holds no samples."""
    samples: list[list[float]] = [list(process) for process in time.samples_ns if process]
    return samples or [[time.median_ns]]


def process_medians_ns(time: Time) -> list[float]:
    """The median of each process."""
    return [float(statistics.median(process)) for process in process_samples_ns(time)]
