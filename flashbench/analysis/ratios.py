"""Ratios of two measurements in time and in memory, only if both have a valid figure."""

from __future__ import annotations

from flashbench.results.record import Measurement


def time_ratio(over: Measurement | None, under: Measurement | None) -> float | None:
    """Ratio of the median times; None unless both were measured and right."""
    medians = [row.time.median_ns for row in (over, under) if row and row.time and row.status == "ok"]
    return medians[0] / medians[1] if len(medians) == 2 and medians[1] > 0 else None


def memory_ratio(over: Measurement | None, under: Measurement | None) -> float | None:
    """Ratio of the peak workspaces; None unless both were measured. No workspace counts as one byte."""
    peaks = [row.memory.workspace_peak_bytes for row in (over, under) if row and row.memory]
    return peaks[0] / max(1, peaks[1]) if len(peaks) == 2 else None
