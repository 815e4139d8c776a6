"""The list that benchmark-action/github-action-benchmark reads as its tool `customSmallerIsBetter`.

https://github.com/benchmark-action/github-action-benchmark: an entry has a name, a value and its unit. It may
have a range, shown after the value (only `± number` is converted with the value's unit), and extra lines for
the tooltip.
"""

from __future__ import annotations

from typing import Any

from flashbench.results.export.names import named
from flashbench.results.export.times import process_samples_ns, usable_time
from flashbench.results.record import Measurement, Results, Time
from flashbench.texts import indented_json

MEMORY = "workspace_peak"  # last part of the name of a measurement's second entry


def takes(row: Measurement) -> bool:
    """Takes a right result with a time or a memory peak: for both, smaller is better."""
    return row.status == "ok" and bool(row.time or row.memory)


def render(results: Results) -> str:
    """One entry for each measurement's time, and one for its memory."""
    entries: list[dict[str, Any]] = []
    for name, row in named(results):
        time = usable_time(row)
        if time:
            entries.append(_time_entry(name, row, time))
        if row.status == "ok" and row.memory:
            peak = row.memory.workspace_peak_bytes
            entries.append({"name": f"{name}/{MEMORY}", "unit": "bytes", "value": peak})
    return indented_json(entries).decode()


def _time_entry(name: str, row: Measurement, time: Time) -> dict[str, Any]:
    """In milliseconds, which suit the action's charts; the range is half the distance of the quartiles."""
    processes = process_samples_ns(time)
    extra = [
        f"calls: {sum(map(len, processes))}, processes: {len(processes)}",
        f"quartiles {time.low_ns / 1e6:.4g} to {time.high_ns / 1e6:.4g} ms",
    ]
    if row.rates:
        share = row.rates.percent_of_peak
        extra.append(
            f"{row.rates.gflops:.4g} GFLOP/s" + ("" if share is None else f", {share:.1f} % of peak")
        )
        if row.rates.gbps is not None:
            share = row.rates.percent_of_bandwidth
            extra.append(
                f"{row.rates.gbps:.4g} GB/s" + ("" if share is None else f", {share:.1f} % of bandwidth")
            )
    return {
        "name": name,
        "unit": "ms",
        "value": time.median_ns / 1e6,
        # A float's text, because the action reads numbers of two characters or more: `5.0`, not `5`.
        "range": f"± {float(f'{(time.high_ns - time.low_ns) / 2e6:.4g}')}",
        "extra": "\n".join(extra),
    }
