"""The profile as tables: the documented columns for standard and flash, otherwise a row for each engine."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.blocks import AUTO, block_label
from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.group_words import axis_word, problem_line, threads_word
from flashbench.analysis.groups import Along, GroupKey, has_windows, table_axis, windows_together
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.ratios import memory_ratio, time_ratio
from flashbench.report.cells import energy_cell, error_cell, peak_cell, percent_of_peak, time_cells
from flashbench.report.engine_table import engine_table, legend_lines, names_engines
from flashbench.report.grid import Column, Grid, Section, grid_of, when
from flashbench.report.layout import (
    AXES,
    NO_POINT,
    heading,
    note_lines,
    outlier_lines,
    path_lines,
    reason_lines,
)
from flashbench.report.memory import memory_cells, memory_lines
from flashbench.report.tones import NOTHING, Cell, Tone
from flashbench.report.units import format_ratio
from flashbench.results.record import Measurement, Results

DOCUMENTED_ENGINES = frozenset({"standard", "flash"})


def profile_report(results: Results) -> RenderableType:
    """Every measurement, one table for each direction, masking, dtype, head size, heads and batch."""
    parts: list[RenderableType] = heading(results)
    for section in profile_sections(results):
        parts += section.parts()
    if not results.measurements:
        parts.append(Text(NO_POINT))
    return Group(*parts)


def profile_sections(results: Results) -> list[Section]:
    """The tables of `profile_report`."""
    groups = windows_together(results.measurements, table_axis(results.measurements))
    return [
        Section(
            _title(key, rows),
            (_documented_table if is_documented_layout(rows) else engine_table)(rows, key.along),
            [
                *legend_lines(rows),
                *path_lines(rows),
                *reason_lines(rows, key.along),
                *note_lines(rows, key.along),
                *memory_lines(rows, key.along),
                *outlier_lines(rows),
            ],
        )
        for key, rows in groups.items()
    ]


def is_documented_layout(rows: Sequence[Measurement]) -> bool:
    """Whether these are only standard and flash, each once for each problem."""
    if has_windows(rows) or any(is_decoding(row.problem) for row in rows):
        return False
    pairs = [(row.engine, row.problem) for row in rows]
    return {row.engine for row in rows} == DOCUMENTED_ENGINES and len(set(pairs)) == len(pairs)


def by_problem(rows: Sequence[Measurement]) -> list[tuple[Measurement | None, Measurement | None]]:
    """(standard, flash) of each problem, in the order measured."""
    problems = dict.fromkeys(row.problem for row in rows)
    found = {(row.problem, row.engine): row for row in rows}
    return [(found.get((problem, "standard")), found.get((problem, "flash"))) for problem in problems]


def _title(key: GroupKey, rows: Sequence[Measurement]) -> str:
    words = [problem_line(key), threads_word(rows)]
    if not names_engines(rows):
        words.insert(0, engine_with_path(rows[0]))
    blocks = {block_label(row) for row in rows if row.blocks_asked not in (None, AUTO)}
    if len(blocks) == 1:
        words.append(f"block {blocks.pop()}")
    return ", ".join(filter(None, words))


def _documented_table(rows: Sequence[Measurement], along: Along) -> Grid:
    pairs = by_problem(rows)
    standard, flash = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    problems = dict.fromkeys(row.problem for row in rows)  # as `by_problem` has them
    columns = [
        Column(AXES[along].header, [axis_word(problem, along) for problem in problems]),
        *when(
            any(row.memory for row in rows),
            Column("Standard\nMem", memory_cells(standard)),
            Column("Flash\nMem", memory_cells(flash)),
            Column("Savings", [_savings(*pair) for pair in pairs]),
        ),
        Column("Time\n(ms)", time_cells(flash)),
        Column("Standard\n(ms)", time_cells(standard)),
        Column("Speed-up", [_speed_up(*pair) for pair in pairs]),
        *when(
            any(percent_of_peak(row) is not None for row in rows),
            Column("%\nPeak", [peak_cell(row) for row in flash]),
        ),
        *when(
            any(row.accuracy for row in rows),
            Column("Max\nError", [error_cell(row.accuracy if row else None) for row in flash]),
        ),
        *when(
            any(row.energy_joules is not None for row in rows),
            Column("Energy\n(mJ)", [energy_cell(row) for row in flash]),
        ),
    ]
    return grid_of(columns)


def _savings(standard: Measurement | None, flash: Measurement | None) -> str | Cell:
    ratio = memory_ratio(standard, flash)
    return NOTHING if ratio is None else format_ratio(ratio)


def _speed_up(standard: Measurement | None, flash: Measurement | None) -> Cell:
    ratio = time_ratio(standard, flash)
    if ratio is None:
        return NOTHING
    return Cell(f"{ratio:.2f}x", Tone.GOOD if ratio >= 1 else Tone.DOUBTFUL)
