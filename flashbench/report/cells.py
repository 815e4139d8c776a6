"""Cells that tables of measurements share: one for each figure, and for a figure that is missing."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.ratios import time_ratio
from flashbench.report.layout import status_cell
from flashbench.report.tones import NOTHING, Cell, Tone
from flashbench.report.units import brief_bytes, format_bytes, format_error, format_times
from flashbench.results.record import Accuracy, Measurement


def time_cells(rows: Sequence[Measurement | None]) -> list[Cell]:
    """One column of times. A status takes the place of a missing time and of a wrong result's time."""
    timed = [row.time.median_ns for row in rows if row and row.time and row.status == "ok"]
    words = iter(format_times(timed))
    cells = []
    for row in rows:
        if row is None:
            cells.append(NOTHING)
        elif row.status != "ok":
            cells.append(status_cell(row))
        else:
            cells.append(Cell(next(words)) if row.time else NOTHING)
    return cells


def size_cell(count: int | None) -> Cell:
    """Bytes, with one decimal less in a narrow table."""
    return NOTHING if count is None else Cell(format_bytes(count), brief=brief_bytes(count))


def fits_cell(fits: bool) -> Cell:
    """Whether memory is enough."""
    return Cell("yes", Tone.GOOD) if fits else Cell("no", Tone.BAD)


def percent_of_peak(row: Measurement | None) -> float | None:
    """Percent of the multiply-add peak; None for a result that is not right."""
    return row.rates.percent_of_peak if row and row.rates and row.status == "ok" else None


def peak_cell(row: Measurement | None) -> Cell:
    """Percent of the multiply-add peak."""
    share = percent_of_peak(row)
    return NOTHING if share is None else Cell(f"{share:.1f}")


def gflops_cell(row: Measurement) -> Cell:
    """GFLOP/s of the visible pairs."""
    return Cell(f"{row.rates.gflops:.1f}") if row.rates and row.status == "ok" else NOTHING


def gbps_cell(row: Measurement) -> Cell:
    """GB/s of k and v, if recorded."""
    if row.rates is None or row.rates.gbps is None or row.status != "ok":
        return NOTHING
    return Cell(f"{row.rates.gbps:.1f}")


def percent_of_bandwidth(row: Measurement) -> float | None:
    """Percent of the machine's read bandwidth; None for a result that is not right."""
    return row.rates.percent_of_bandwidth if row.rates and row.status == "ok" else None


def bandwidth_cell(row: Measurement) -> Cell:
    """Percent of the machine's read bandwidth."""
    share = percent_of_bandwidth(row)
    return NOTHING if share is None else Cell(f"{share:.0f}")


def tokens_cell(row: Measurement) -> Cell:
    """Queries a second over all sequences of the batch. Each query is one token."""
    if row.time is None or row.status != "ok":
        return NOTHING
    return Cell(f"{row.problem.query_rows / row.time.median_ns * 1e9:.0f}")


def error_cell(accuracy: Accuracy | None) -> Cell:
    """The largest error; it is bad if it is more than rounding."""
    if accuracy is None:
        return NOTHING
    error = accuracy.max_abs_error
    wrong = error is None or error > accuracy.tolerance
    return Cell(format_error(error), Tone.BAD if wrong else Tone.PLAIN)


def energy_cell(row: Measurement | None) -> Cell:
    """Millijoules of a call."""
    if row is None or row.energy_joules is None or row.status != "ok":
        return NOTHING
    return Cell(f"{1000 * row.energy_joules:.3g}")


def ratio_cell(row: Measurement, base: Measurement | None) -> Cell:
    """The time over the base's time; quiet for the base itself."""
    ratio = time_ratio(row, base)
    if ratio is None:
        return NOTHING
    word = f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"
    return Cell(word, Tone.QUIET if row is base else Tone.PLAIN)
