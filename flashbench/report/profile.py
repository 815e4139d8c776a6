"""The profile as tables: the documented columns for standard and flash, otherwise a row for each engine."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.blocks import AUTO, block_label
from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.group_words import axis_word, problem_line, threads_word
from flashbench.analysis.groups import Along, GroupKey, has_windows, table_axis, windows_together
from flashbench.analysis.ratios import memory_ratio, time_ratio
from flashbench.report.cells import energy_cell, error_cell, peak_cell, percent_of_peak, time_cells
from flashbench.report.engine_table import engine_table, legend_lines, names_engines
from flashbench.report.grid import Grid, Section
from flashbench.report.layout import AXES, NO_POINT, heading, note_lines, outlier_lines, reason_lines
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
        words.insert(0, rows[0].engine)
    blocks = {block_label(row) for row in rows if row.blocks_asked not in (None, AUTO)}
    if len(blocks) == 1:
        words.append(f"block {blocks.pop()}")
    return ", ".join(filter(None, words))


def _documented_table(rows: Sequence[Measurement], along: Along) -> Grid:
    pairs = by_problem(rows)
    flash_times = time_cells([flash for _, flash in pairs])
    standard_times = time_cells([standard for standard, _ in pairs])
    flash_memory = memory_cells([flash for _, flash in pairs])
    standard_memory = memory_cells([standard for standard, _ in pairs])
    with_memory = any(row.memory for row in rows)
    with_accuracy = any(row.accuracy for row in rows)
    with_energy = any(row.energy_joules is not None for row in rows)
    with_peak = any(percent_of_peak(row) is not None for row in rows)
    grid = Grid(
        AXES[along].header,
        *(["Standard\nMem", "Flash\nMem", "Savings"] if with_memory else []),
        "Time\n(ms)",
        "Standard\n(ms)",
        "Speed-up",
        *(["%\nPeak"] if with_peak else []),
        *(["Max\nError"] if with_accuracy else []),
        *(["Energy\n(mJ)"] if with_energy else []),
    )
    for index, (standard, flash) in enumerate(pairs):
        some = flash or standard
        assert some is not None, "a problem comes from a row"
        grid.add_row(
            axis_word(some.problem, along),
            *(
                [standard_memory[index], flash_memory[index], _savings(standard, flash)]
                if with_memory
                else []
            ),
            flash_times[index],
            standard_times[index],
            _speed_up(standard, flash),
            *([peak_cell(flash)] if with_peak else []),
            *([error_cell(flash.accuracy if flash else None)] if with_accuracy else []),
            *([energy_cell(flash)] if with_energy else []),
        )
    return grid


def _savings(standard: Measurement | None, flash: Measurement | None) -> str | Cell:
    ratio = memory_ratio(standard, flash)
    return NOTHING if ratio is None else format_ratio(ratio)


def _speed_up(standard: Measurement | None, flash: Measurement | None) -> Cell:
    ratio = time_ratio(standard, flash)
    if ratio is None:
        return NOTHING
    return Cell(f"{ratio:.2f}x", Tone.GOOD if ratio >= 1 else Tone.DOUBTFUL)
