"""Ratios of two rows in time and in memory, only if both have a valid figure."""

from __future__ import annotations

from flashbench.results.record import AnyRow, Measurement


def time_ratio(over: AnyRow | None, under: AnyRow | None) -> float | None:
    """Ratio of the median times; None unless both were measured and right."""
    medians = [row.time.median_ns for row in (over, under) if row and row.time and row.status == "ok"]
    return medians[0] / medians[1] if len(medians) == 2 and medians[1] > 0 else None


def memory_ratio(over: AnyRow | None, under: AnyRow | None) -> float | None:
    """Ratio of the peak workspaces; None unless both were measured. No workspace counts as one byte."""
    peaks = [peak for row in (over, under) if row and (peak := peak_bytes(row)) is not None]
    return peaks[0] / max(1, peaks[1]) if len(peaks) == 2 else None


def peak_bytes(row: AnyRow) -> int | None:
    """The measured peak: a call's workspace, or what a whole model's work took beyond the model."""
    if isinstance(row, Measurement):
        return None if row.memory is None else row.memory.workspace_peak_bytes
    return row.peak_bytes
