"""Tables of everything measured: one per kind of problem, every figure of every row."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.memory_views import memory_views
from flashbench.report.charts.series import Source
from flashbench.report.layout import (
    AXIS_HEADERS,
    STATUS_WORDS,
    GroupKey,
    axis_word,
    block_word,
    group_key,
    problem_line,
    table_axis,
)
from flashbench.report.page.table import Cell, Table, make_table
from flashbench.report.page.words import capital
from flashbench.report.units import format_bytes, format_error, format_times
from flashbench.results.record import Accuracy, Measurement, Memory, Time

_HEADINGS = (
    "File",
    "Engine",
    "Side",
    "Block",
    "Kernel",
    "Threads",
    "Median, ms",
    "25 %",
    "75 %",
    "Minimum",
    "Processes",
    "Calls",
    "Outliers",
    "GFLOP/s",
    "% of peak",
    "GB/s",
    "% of bandwidth",
    "Memory, memray",
    "Memory, resident",
    "Memory, expected",
    "Max error",
    "Tolerance",
    "Energy, J",
    "Moved",
    "Others' cores",
    "Steal, %",
    "Status",
)
_WORDS = ("File", "Engine", "Side", "Block", "Kernel", "Status")
DISAGREES = " \N{LEFT RIGHT ARROW}"  # after a figure that does not agree with the measured workspace


def measured_tables(sources: Sequence[Source]) -> dict[GroupKey, Table]:
    """A table per kind of problem, in the order measured."""
    along = table_axis(row for source in sources for row in source.results.measurements)
    groups: dict[GroupKey, list[tuple[str, Measurement]]] = {}
    for source in sources:
        for row in source.results.measurements:
            groups.setdefault(group_key(row, along), []).append((source.name, row))
    return {
        key: _table(f"measured-{number}", key, rows, several=len(sources) > 1)
        for number, (key, rows) in enumerate(groups.items(), start=1)
    }


def _table(id_: str, key: GroupKey, rows: Sequence[tuple[str, Measurement]], *, several: bool) -> Table:
    times = iter(format_times([ns for _, row in rows for ns in _times_ns(row.time)]))
    cells = []
    for name, row in rows:
        words = [next(times) for _ in _times_ns(row.time)]
        words += [""] * (4 - len(words))  # no time, or no minimum of it
        cells.append([axis_word(row.problem, key.along), name if several else "", *_cells(row, words)])
    notes = [
        "Median, quartiles and minimum are of all calls, in ms; outliers, beyond Tukey's outer fences, are "
        "counted and not dropped."
    ]
    if any(row.memory for _, row in rows):
        notes.append(
            "Memory is beyond inputs and outputs: the peak as memray saw it, the growth of the process, and "
            "what the engine said before the run. "
            f"{DISAGREES.strip()} marks one that differs from memray's by more than 5 % and 64 KiB."
        )
    return make_table(
        id_,
        capital(problem_line(key)),
        [AXIS_HEADERS[key.along].replace("Seq\nLen", "N").replace("\n", " "), *_HEADINGS],
        cells,
        words=_WORDS,
        notes=notes,
    )


def _times_ns(time: Time | None) -> list[float]:
    if time is None:
        return []
    figures = [time.median_ns, time.low_ns, time.high_ns]
    return figures if time.minimum_ns is None else [*figures, time.minimum_ns]


def _cells(row: Measurement, times: Sequence[str]) -> list[Cell | str]:
    ok = row.status == "ok"
    percent = row.rates.percent_of_peak if row.rates and ok else None
    disturbance = row.disturbance
    return [
        row.engine,
        (row.side or "").upper(),
        block_word(row),
        row.kernel or "",
        "" if row.threads is None else str(row.threads),
        *times,
        *_counts(row.time),
        f"{row.rates.gflops:.1f}" if row.rates and ok else "",
        "" if percent is None else f"{percent:.1f}",
        *_byte_rates(row),
        *_memory(row.memory),
        *_accuracy(row.accuracy),
        "" if row.energy_joules is None else f"{row.energy_joules:.3g}",
        f"{100 * disturbance.moved:.1f} %" if disturbance else "",
        _optional(disturbance.others_cores if disturbance else None),
        _optional(disturbance.steal_percent if disturbance else None),
        _status(row),
    ]


def _counts(time: Time | None) -> list[str]:
    if time is None:
        return ["", "", ""]
    return [str(len(time.samples_ns)), str(sum(map(len, time.samples_ns))), str(time.outliers)]


def _byte_rates(row: Measurement) -> list[Cell | str]:
    if row.rates is None or row.rates.gbps is None or row.status != "ok":
        return ["", ""]
    percent = row.rates.percent_of_bandwidth
    return [f"{row.rates.gbps:.1f}", "" if percent is None else f"{percent:.0f}"]


def _memory(memory: Memory | None) -> list[Cell | str]:
    if memory is None:
        return ["", "", ""]
    instrument = "" if memory.instrument == "memray" else f" ({memory.instrument})"
    views = memory_views(memory)
    pairs = [pair for pair in views.disagreements() if memory.instrument in pair]
    apart = {view for pair in pairs for view in pair}
    return [
        format_bytes(memory.workspace_peak_bytes) + instrument,
        _view(views.resident, memory.instrument != "resident" and "resident" in apart),
        _view(views.expected, "expected" in apart),
    ]


def _view(count: int | None, disagrees: bool) -> Cell:
    if count is None:
        return Cell("")
    return Cell(format_bytes(count) + (DISAGREES if disagrees else ""), "doubtful" if disagrees else "")


def _accuracy(accuracy: Accuracy | None) -> list[Cell | str]:
    if accuracy is None:
        return ["", ""]
    error = accuracy.max_abs_error
    wrong = error is None or error > accuracy.tolerance
    return [Cell(format_error(error), "bad" if wrong else ""), format_error(accuracy.tolerance)]


def _status(row: Measurement) -> Cell:
    """Blank where all is well and nothing is to be said."""
    if row.status == "ok":
        return Cell(row.note or "")
    words = [STATUS_WORDS[row.status], row.reason or "no reason was recorded", row.note]
    never_tried = row.status in ("unsupported", "too_large")
    return Cell(": ".join(word for word in words if word), "doubtful" if never_tried else "bad")


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
