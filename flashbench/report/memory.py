"""Memory three ways: memray's peak, the growth of the resident process, and what was computed beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.blocks import AUTO, block_label
from flashbench.analysis.memory_views import CAUSES, View, memory_views
from flashbench.report.layout import (
    AXIS_HEADERS,
    NOTHING,
    Along,
    Grid,
    axis_word,
    block_word,
    group_measurements,
    problem_line,
    status_cell,
    table_axis,
    threads_word,
)
from flashbench.report.units import format_bytes
from flashbench.results.record import Measurement, Results

FLAG = "!"
_FLAG_STYLE = "bold yellow"
NO_MEMRAY = "memray does not exist on Windows: memory is the growth of the resident process, less the outputs"


def memory_report(results: Results) -> RenderableType:
    """The three views of every measurement side by side, a table per group as the profile has them."""
    parts: list[RenderableType] = [
        Text("Memory, three ways", style="bold"),
        Text("beyond inputs and outputs; ! more than 64 KiB and more than 5 % apart", style="dim"),
    ]
    along = table_axis(results.measurements)
    for key, rows in group_measurements(results.measurements, along).items():
        title = ", ".join(filter(None, (problem_line(key), threads_word(rows))))
        parts += [Text(), Text(title, style="bold"), _table(rows, key.along), *memory_lines(rows, key.along)]
    return Group(*parts)


def memory_cells(rows: Sequence[Measurement | None]) -> list[str | Text]:
    """One column of workspaces; those whose views disagree have a flag, and the others room for it."""
    flagged = [row is not None and bool(_disagreements(row)) for row in rows]
    room = " " if any(flagged) else ""
    cells: list[str | Text] = []
    for row, flag in zip(rows, flagged, strict=True):
        if row is None or row.memory is None:
            cells.append(NOTHING)
        else:
            figure = format_bytes(row.memory.workspace_peak_bytes)
            cells.append(Text.assemble(figure, (FLAG, _FLAG_STYLE)) if flag else figure + room)
    return cells


def memory_lines(rows: Iterable[Measurement], along: Along) -> list[Text]:
    """What stands in for memray where it does not exist; which views disagree where, and why that may be."""
    measured = [row for row in rows if row.memory is not None]
    lines = []
    if any(row.memory and row.memory.instrument == "resident" for row in measured):
        lines.append(Text(NO_MEMRAY, style="dim"))
    places: dict[tuple[str, tuple[tuple[View, View], ...]], list[str]] = {}
    for row in measured:
        pairs = _disagreements(row)
        if pairs:
            block = block_label(row)
            name = row.engine if block in ("", AUTO) else f"{row.engine}, block {block}"
            places.setdefault((name, pairs), []).append(axis_word(row.problem, along))
    for (name, pairs), where in places.items():
        why = "; ".join(f"{high} above {low} ({CAUSES[high, low]})" for high, low in pairs)
        words = f" {name} at {', '.join(dict.fromkeys(where))}: {why}"
        lines.append(Text.assemble((FLAG, _FLAG_STYLE), (words, "dim")))
    return lines


def _table(rows: Sequence[Measurement], along: Along) -> Grid:
    with_blocks = len({(row.problem, row.engine) for row in rows}) < len(rows)
    grid = Grid(
        AXIS_HEADERS[along],
        "Engine",
        *(["Block"] if with_blocks else []),
        "memray",
        "Resident\n- outputs",
        "Expected",
        "",
        left=[1],
    )
    for index, row in enumerate(rows):
        begins = index == 0 or rows[index - 1].problem != row.problem
        last = index + 1 < len(rows) and rows[index + 1].problem != row.problem
        grid.add_row(
            axis_word(row.problem, along) if begins else "",
            row.engine,
            *([block_word(row) or NOTHING] if with_blocks else []),
            *_views(row),
            Text(FLAG, style=_FLAG_STYLE) if _disagreements(row) else "",
            last=last,
        )
    return grid


def _views(row: Measurement) -> list[str | Text]:
    if row.memory is None:
        return [NOTHING if row.status == "ok" else status_cell(row), NOTHING, NOTHING]
    return [NOTHING if size is None else format_bytes(size) for size in memory_views(row.memory)]


def _disagreements(row: Measurement) -> tuple[tuple[View, View], ...]:
    return () if row.memory is None else tuple(memory_views(row.memory).disagreements())
