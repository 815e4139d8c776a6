"""Memory three ways: memray's peak, the growth of the resident process, and the computed workspace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType

from flashbench.analysis.blocks import AUTO, block_label, block_word, with_block
from flashbench.analysis.group_words import place_words, places_word, problem_line, threads_word
from flashbench.analysis.groups import Along, group_measurements, grouped, table_axis
from flashbench.analysis.memory_views import CAUSES, View, memory_views
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.scaling import has_scaling
from flashbench.report.cells import size_cell
from flashbench.report.grid import Column, Grid, Section, grid_of, when
from flashbench.report.layout import AXES, status_cell
from flashbench.report.tones import FLAG, NOTHING, Cell, Line, Tone
from flashbench.report.units import format_bytes
from flashbench.results.record import Measurement, Results

NO_MEMRAY = "memray does not exist on Windows: memory is the growth of the resident process, less the outputs"


def memory_report(results: Results) -> RenderableType:
    """The three views of every measurement side by side, in the same tables as the profile."""
    parts: list[RenderableType] = [
        Line("Memory, three ways", Tone.STRONG),
        Line(f"beyond inputs and outputs; {FLAG} more than 64 KiB and more than 5 % apart"),
    ]
    along = table_axis(results.measurements)
    for key, rows in group_measurements(results.measurements, along).items():
        title = ", ".join(filter(None, (problem_line(key), threads_word(rows))))
        parts += Section(title, _table(rows, key.along), memory_lines(rows, key.along)).parts()
    return Group(*parts)


def memory_cells(rows: Sequence[Measurement | None]) -> list[Cell]:
    """One column of workspaces. A flag marks views that disagree; the other cells leave room for it."""
    flagged = [row is not None and bool(_disagreements(row)) for row in rows]
    cells = []
    for row, flag in zip(rows, flagged, strict=True):
        if row is None or row.memory is None:
            cells.append(NOTHING)
        elif any(flagged):
            figure = format_bytes(row.memory.workspace_peak_bytes)
            cells.append(Cell(figure if flag else f"{figure} ", flagged=flag))
        else:
            cells.append(size_cell(row.memory.workspace_peak_bytes))
    return cells


def memory_lines(rows: Iterable[Measurement], along: Along) -> list[Line]:
    """What replaces memray where it does not exist; which views disagree, where, and the usual cause."""
    measured = [row for row in rows if row.memory is not None]
    lines = []
    if any(row.memory and row.memory.instrument == "resident" for row in measured):
        lines.append(Line(NO_MEMRAY))
    apart = grouped(
        (row for row in measured if _disagreements(row)), lambda row: (_name(row), _disagreements(row))
    )
    for (name, pairs), where in apart.items():
        why = "; ".join(f"{high} above {low} ({CAUSES[high, low]})" for high, low in pairs)
        lines.append(Line(f"{name} at {places_word(where, along)}: {why}", flagged=True))
    return lines


def _name(row: Measurement) -> str:
    name = engine_with_path(row)
    return name if row.blocks_asked == AUTO else with_block(name, block_label(row))


def _table(rows: Sequence[Measurement], along: Along) -> Grid:
    with_blocks = len({(row.problem, row.engine, row.path_asked, row.threads) for row in rows}) < len(rows)
    problems = [row.problem for row in rows]
    memray, resident, expected = zip(*map(_views, rows), strict=True)
    columns = [
        Column(AXES[along].header, place_words(problems, along)),
        Column("Engine", [engine_with_path(row) for row in rows], left=True),
        *when(has_scaling(rows), Column("Threads", [str(row.threads or NOTHING) for row in rows])),
        *when(with_blocks, Column("Block", [block_word(row) or NOTHING for row in rows])),
        Column("memray", memray),
        Column("Resident\n- outputs", resident),
        Column("Expected", expected),
        Column("", [Cell("", flagged=bool(_disagreements(row))) for row in rows]),
    ]
    return grid_of(columns, problems)


def _views(row: Measurement) -> Sequence[Cell]:
    if row.memory is None:
        return [NOTHING if row.status == "ok" else status_cell(row), NOTHING, NOTHING]
    return list(map(size_cell, memory_views(row.memory)))


def _disagreements(row: Measurement) -> tuple[tuple[View, View], ...]:
    return () if row.memory is None else tuple(memory_views(row.memory).disagreements())
