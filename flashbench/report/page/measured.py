"""Tables of everything measured: one for each kind of problem, with every figure of every row."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.blocks import block_word
from flashbench.analysis.group_words import axis_word, problem_line
from flashbench.analysis.groups import GroupKey, group_key, grouped, table_axis
from flashbench.analysis.memory_views import memory_views
from flashbench.report.cells import error_cell
from flashbench.report.charts.series import Source
from flashbench.report.layout import AXES
from flashbench.report.page.rows import TIME_HEADINGS, TIME_NOTE, outcome_cell, time_cells
from flashbench.report.page.table import Heading, Table, make_table
from flashbench.report.page.words import capital
from flashbench.report.tones import Cell, Tone
from flashbench.report.units import format_bytes, format_error
from flashbench.results.record import Accuracy, Measurement, Memory

_HEADINGS = (
    Heading("File", words=True),
    Heading("Engine", words=True),
    Heading("Side", words=True),
    Heading("Block", words=True),
    Heading("Kernel", words=True),
    Heading("Path", words=True),
    Heading("Threads"),
    *TIME_HEADINGS,
    Heading("GFLOP/s"),
    Heading("% of peak"),
    Heading("GB/s"),
    Heading("% of bandwidth"),
    Heading("Memory, memray"),
    Heading("Memory, resident"),
    Heading("Memory, expected"),
    Heading("Max error"),
    Heading("Tolerance"),
    Heading("Energy, J"),
    Heading("Moved"),
    Heading("Others' cores"),
    Heading("Steal, %"),
    Heading("Status", words=True),
)
DISAGREES = "\N{LEFT RIGHT ARROW}"  # after a figure that disagrees with the measured workspace


def measured_tables(sources: Sequence[Source]) -> dict[GroupKey, Table]:
    """A table for each kind of problem, in the order measured."""
    along = table_axis(row for source in sources for row in source.results.measurements)
    rows = ((source.name, row) for source in sources for row in source.results.measurements)
    groups = grouped(rows, lambda named: group_key(named[1], along))
    return {
        key: _table(f"measured-{number}", key, rows, several=len(sources) > 1)
        for number, (key, rows) in enumerate(groups.items(), start=1)
    }


def _table(id_: str, key: GroupKey, rows: Sequence[tuple[str, Measurement]], *, several: bool) -> Table:
    cells = [
        [axis_word(row.problem, key.along), name if several else "", *_cells(row, times)]
        for (name, row), times in zip(rows, time_cells([row.time for _, row in rows]), strict=True)
    ]
    notes = [TIME_NOTE]
    if any(row.memory for _, row in rows):
        notes.append(
            "Memory is beyond inputs and outputs: the peak as memray saw it, the growth of the process, and "
            "what the engine said before the run. "
            f"{DISAGREES} marks one that differs from memray's by more than 5 % and 64 KiB."
        )
    return make_table(
        id_,
        capital(problem_line(key)),
        [Heading(AXES[key.along].heading), *_HEADINGS],
        cells,
        notes=notes,
    )


def _cells(row: Measurement, times: Sequence[str]) -> list[Cell | str]:
    ok = row.status == "ok"
    percent = row.rates.percent_of_peak if row.rates and ok else None
    disturbance = row.disturbance
    return [
        row.engine,
        (row.side or "").upper(),
        block_word(row),
        row.kernel or "",
        row.isa_path or "",
        "" if row.threads is None else str(row.threads),
        *times,
        f"{row.rates.gflops:.1f}" if row.rates and ok else "",
        "" if percent is None else f"{percent:.1f}",
        *_byte_rates(row),
        *_memory(row.memory),
        *_accuracy(row.accuracy),
        "" if row.energy_joules is None else f"{row.energy_joules:.3g}",
        f"{100 * disturbance.moved:.1f} %" if disturbance else "",
        _optional(disturbance.others_cores if disturbance else None),
        _optional(disturbance.steal_percent if disturbance else None),
        outcome_cell(row),
    ]


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
    return (
        Cell(f"{format_bytes(count)} {DISAGREES}", Tone.DOUBTFUL) if disagrees else Cell(format_bytes(count))
    )


def _accuracy(accuracy: Accuracy | None) -> list[Cell | str]:
    if accuracy is None:
        return ["", ""]
    return [error_cell(accuracy), format_error(accuracy.tolerance)]


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
