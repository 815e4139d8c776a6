"""What the exporters read of a measurement's time."""

from __future__ import annotations

import statistics

from flashbench.results.record import Measurement, Time


def usable_time(row: Measurement) -> Time | None:
    """Its time, unless it has none or the result was wrong: the time of a wrong answer says nothing."""
    return row.time if row.status == "ok" else None


def process_samples_ns(time: Time) -> list[list[float]]:
    """Its samples, one list per process that has any; the median alone where no sample was kept."""
    samples: list[list[float]] = [list(process) for process in time.samples_ns if process]
    return samples or [[time.median_ns]]


def process_medians_ns(time: Time) -> list[float]:
    """The median of each process."""
    return [float(statistics.median(process)) for process in process_samples_ns(time)]
