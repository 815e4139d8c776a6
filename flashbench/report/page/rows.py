"""Columns that the tables of everything measured share: times, and the status."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.words import NO_REASON, STATUS_WORDS
from flashbench.report.page.table import Heading
from flashbench.report.tones import Cell, status_tone
from flashbench.report.units import format_times
from flashbench.results.record import AnyRow, Time

TIME_HEADINGS = tuple(
    map(Heading, ("Median, ms", "25 %", "75 %", "Minimum", "Processes", "Calls", "Outliers"))
)
TIME_NOTE = (
    "Median, quartiles and minimum are of all calls, in ms; outliers, beyond Tukey's outer fences, are "
    "counted and not dropped."
)


def time_cells(times: Sequence[Time | None]) -> list[list[str]]:
    """The cells below `TIME_HEADINGS`, a row for each time; blank where there is none."""
    words = iter(format_times([ns for time in times for ns in _times_ns(time)]))
    return [[*_padded([next(words) for _ in _times_ns(time)]), *_counts(time)] for time in times]


def outcome_cell(row: AnyRow) -> Cell:
    """Status, reason and note. Blank if the row is ok and has no note."""
    if row.status == "ok":
        return Cell(row.note or "")
    words = [STATUS_WORDS[row.status], row.reason or NO_REASON, row.note]
    return Cell(": ".join(filter(None, words)), status_tone(row.status))


def _times_ns(time: Time | None) -> list[float]:
    if time is None:
        return []
    figures = [time.median_ns, time.low_ns, time.high_ns]
    return figures if time.minimum_ns is None else [*figures, time.minimum_ns]


def _padded(words: list[str]) -> list[str]:
    return words + [""] * (4 - len(words))  # no time, or a time without a minimum


def _counts(time: Time | None) -> list[str]:
    if time is None:
        return ["", "", ""]
    return [str(len(time.samples_ns)), str(sum(map(len, time.samples_ns))), str(time.outliers)]
