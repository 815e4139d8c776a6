"""Cells that tables of measurements share: the words for a figure, and for one that is not there."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from flashbench.analysis.ratios import time_ratio
from flashbench.report.layout import NOTHING, status_cell
from flashbench.report.units import format_error, format_times
from flashbench.results.record import Measurement


def time_cells(rows: Sequence[Measurement | None]) -> list[str | Text]:
    """One column of times; a status stands where there is none, and where the result was wrong."""
    timed = [row.time.median_ns for row in rows if row and row.time and row.status == "ok"]
    words = iter(format_times(timed))
    cells: list[str | Text] = []
    for row in rows:
        if row is None:
            cells.append(NOTHING)
        elif row.status != "ok":
            cells.append(status_cell(row))
        else:
            cells.append(next(words) if row.time else NOTHING)
    return cells


def percent_of_peak(row: Measurement | None) -> float | None:
    """Of a right result."""
    return row.rates.percent_of_peak if row and row.rates and row.status == "ok" else None


def peak_cell(row: Measurement | None) -> str | Text:
    """The share of the multiply-add peak."""
    share = percent_of_peak(row)
    return NOTHING if share is None else f"{share:.1f}"


def gflops_cell(row: Measurement) -> str | Text:
    """Of the pairs that are visible."""
    return f"{row.rates.gflops:.1f}" if row.rates and row.status == "ok" else NOTHING


def gbps_cell(row: Measurement) -> str | Text:
    """Of k and v, where that was told."""
    if row.rates is None or row.rates.gbps is None or row.status != "ok":
        return NOTHING
    return f"{row.rates.gbps:.1f}"


def percent_of_bandwidth(row: Measurement) -> float | None:
    """Of a right result."""
    return row.rates.percent_of_bandwidth if row.rates and row.status == "ok" else None


def bandwidth_cell(row: Measurement) -> str | Text:
    """The share of the machine's read bandwidth."""
    share = percent_of_bandwidth(row)
    return NOTHING if share is None else f"{share:.0f}"


def tokens_cell(row: Measurement) -> str | Text:
    """Queries a second, over the sequences of the batch: a token each."""
    if row.time is None or row.status != "ok":
        return NOTHING
    return f"{row.problem.query_rows / row.time.median_ns * 1e9:.0f}"


def error_cell(row: Measurement | None) -> str | Text:
    """The largest error; bold where it is more than rounding."""
    if row is None or row.accuracy is None:
        return NOTHING
    error, tolerance = row.accuracy.max_abs_error, row.accuracy.tolerance
    return Text(format_error(error), style="bold red" if error is None or error > tolerance else "")


def energy_cell(row: Measurement | None) -> str | Text:
    """Millijoules of a call."""
    if row is None or row.energy_joules is None or row.status != "ok":
        return NOTHING
    return f"{1000 * row.energy_joules:.3g}"


def ratio_cell(row: Measurement, base: Measurement | None) -> Text:
    """The time over the base's; dim for the base itself."""
    ratio = time_ratio(row, base)
    if ratio is None:
        return NOTHING
    word = f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"
    return Text(word, style="dim" if row is base else "")
