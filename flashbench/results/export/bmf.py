"""Bencher Metric Format: name -> measure -> value, for `bencher run --adapter json --file FILE`.

https://bencher.dev/docs/reference/bencher-metric-format: `latency` is Bencher's own measure, in nanoseconds.
Bencher creates a measure for any other slug, without a unit, so these slugs name their unit.
"""

from __future__ import annotations

from flashbench.results.export.names import named
from flashbench.results.export.times import usable_time
from flashbench.results.record import Measurement, Results
from flashbench.texts import indented_json

Metric = dict[str, float]  # value, and lower_value and upper_value if there is a spread


def takes(row: Measurement) -> bool:
    """Takes a right result with at least one figure."""
    return bool(_metrics(row))


def render(results: Results) -> str:
    """The quartiles are the lower and upper value of the latency."""
    return indented_json(
        {name: metrics for name, row in named(results) if (metrics := _metrics(row))}
    ).decode()


def _metrics(row: Measurement) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    if row.status != "ok":
        return metrics
    time = usable_time(row)
    if time:
        metrics["latency"] = {
            "value": time.median_ns,
            "lower_value": time.low_ns,
            "upper_value": time.high_ns,
        }
    if row.rates:
        metrics["gflops"] = {"value": row.rates.gflops}
        if row.rates.gbps is not None:
            metrics["gbps"] = {"value": row.rates.gbps}
    if row.memory:
        metrics["workspace-peak-bytes"] = {"value": row.memory.workspace_peak_bytes}
    if row.energy_joules is not None:
        metrics["energy-joules"] = {"value": row.energy_joules}
    return metrics
