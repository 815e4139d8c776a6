"""The profile as tables: the documented columns for standard and flash, one row per engine for any others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.report.layout import (
    AXIS_HEADERS,
    NOTHING,
    Along,
    Grid,
    GroupKey,
    axis_word,
    block_word,
    group_measurements,
    heading,
    note_lines,
    outlier_lines,
    problem_line,
    reason_lines,
    status_cell,
    table_axis,
    threads_word,
)
from flashbench.report.memory import memory_cells, memory_lines
from flashbench.report.units import format_error, format_ratio, format_times
from flashbench.results.record import Measurement, Results
from flashbench.studies.blocks import AUTO, block_label
from flashbench.studies.ratios import memory_ratio, time_ratio

DOCUMENTED_ENGINES = frozenset({"standard", "flash"})
NO_POINT = "no point was measured"


class Section(NamedTuple):
    """One table: a title above it, and below it why figures are missing or flagged."""

    title: Text
    grid: Grid
    reasons: list[Text]


def profile_report(results: Results) -> RenderableType:
    """Every measurement, one table per direction, masking, dtype, head size, heads and batch."""
    parts: list[RenderableType] = heading(results)
    for section in profile_sections(results):
        parts += [Text(), section.title, section.grid, *section.reasons]
    if not results.measurements:
        parts.append(Text(NO_POINT))
    return Group(*parts)


def profile_sections(results: Results) -> list[Section]:
    """What `profile_report` shows below its heading."""
    along = table_axis(results.measurements)
    return [
        Section(
            _title(key, rows),
            _documented_table(rows, along) if is_documented_layout(rows) else _engine_table(rows, along),
            [
                *reason_lines(rows, along),
                *note_lines(rows, along),
                *memory_lines(rows, along),
                *outlier_lines(rows),
            ],
        )
        for key, rows in group_measurements(results.measurements, along).items()
    ]


def is_documented_layout(rows: Sequence[Measurement]) -> bool:
    """Whether these are standard and flash alone, each once per problem."""
    pairs = [(row.engine, row.problem) for row in rows]
    return {row.engine for row in rows} == DOCUMENTED_ENGINES and len(set(pairs)) == len(pairs)


def by_problem(rows: Sequence[Measurement]) -> list[tuple[Measurement | None, Measurement | None]]:
    """(standard, flash) of each problem, in the order measured."""
    problems = dict.fromkeys(row.problem for row in rows)
    found = {(row.problem, row.engine): row for row in rows}
    return [(found.get((problem, "standard")), found.get((problem, "flash"))) for problem in problems]


def _title(key: GroupKey, rows: Sequence[Measurement]) -> Text:
    words = [problem_line(key), threads_word(rows)]
    blocks = {block_label(row) for row in rows} - {"", AUTO}
    if len(blocks) == 1:
        words.append(f"block {blocks.pop()}")
    return Text(", ".join(filter(None, words)), style="bold")


def _documented_table(rows: Sequence[Measurement], along: Along) -> Grid:
    pairs = by_problem(rows)
    flash_times = _times([flash for _, flash in pairs])
    standard_times = _times([standard for standard, _ in pairs])
    flash_memory = memory_cells([flash for _, flash in pairs])
    standard_memory = memory_cells([standard for standard, _ in pairs])
    with_memory = any(row.memory for row in rows)
    with_accuracy = any(row.accuracy for row in rows)
    with_energy = any(row.energy_joules is not None for row in rows)
    with_peak = any(_percent_of_peak(row) is not None for row in rows)
    grid = Grid(
        AXIS_HEADERS[along],
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
            *([_peak_share(flash)] if with_peak else []),
            *([_error(flash)] if with_accuracy else []),
            *([_energy(flash)] if with_energy else []),
        )
    return grid


def _engine_table(rows: Sequence[Measurement], along: Along) -> Grid:
    first = rows[0]
    base = {row.problem: row for row in reversed(rows) if row.engine == first.engine}
    times, memory = _times(rows), memory_cells(rows)
    engines = len({row.engine for row in rows})
    with_blocks = len({(row.problem, row.engine) for row in rows}) < len(rows)
    with_memory = any(row.memory for row in rows)
    with_accuracy = any(row.accuracy for row in rows)
    with_energy = any(row.energy_joules is not None for row in rows)
    with_peak = any(_percent_of_peak(row) is not None for row in rows)
    grid = Grid(
        AXIS_HEADERS[along],
        "Engine",
        *(["Block"] if with_blocks else []),
        "Time\n(ms)",
        f"Time vs\n{first.engine}",
        "GFLOP/s",
        *(["%\nPeak"] if with_peak else []),
        *(["Memory"] if with_memory else []),
        *(["Max\nError"] if with_accuracy else []),
        *(["Energy\n(mJ)"] if with_energy else []),
        left=[1],
    )
    for index, row in enumerate(rows):
        begins = index == 0 or rows[index - 1].problem != row.problem
        last = engines > 1 and index + 1 < len(rows) and rows[index + 1].problem != row.problem
        grid.add_row(
            axis_word(row.problem, along) if begins else "",
            row.engine if row.side is None else f"{row.engine} ({row.side.upper()})",
            *([block_word(row) or NOTHING] if with_blocks else []),
            times[index],
            _time_ratio(row, base.get(row.problem)),
            f"{row.rates.gflops:.1f}" if row.rates and row.status == "ok" else NOTHING,
            *([_peak_share(row)] if with_peak else []),
            *([memory[index]] if with_memory else []),
            *([_error(row)] if with_accuracy else []),
            *([_energy(row)] if with_energy else []),
            last=last,
        )
    return grid


def _times(rows: Sequence[Measurement | None]) -> list[str | Text]:
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


def _savings(standard: Measurement | None, flash: Measurement | None) -> str | Text:
    ratio = memory_ratio(standard, flash)
    return NOTHING if ratio is None else format_ratio(ratio)


def _percent_of_peak(row: Measurement | None) -> float | None:
    return row.rates.percent_of_peak if row and row.rates and row.status == "ok" else None


def _peak_share(row: Measurement | None) -> str | Text:
    share = _percent_of_peak(row)
    return NOTHING if share is None else f"{share:.1f}"


def _error(row: Measurement | None) -> str | Text:
    if row is None or row.accuracy is None:
        return NOTHING
    error, tolerance = row.accuracy.max_abs_error, row.accuracy.tolerance
    return Text(format_error(error), style="bold red" if error is None or error > tolerance else "")


def _energy(row: Measurement | None) -> str | Text:
    if row is None or row.energy_joules is None or row.status != "ok":
        return NOTHING
    return f"{1000 * row.energy_joules:.3g}"


def _speed_up(standard: Measurement | None, flash: Measurement | None) -> Text:
    ratio = time_ratio(standard, flash)
    if ratio is None:
        return NOTHING
    return Text(f"{ratio:.2f}x", style="green" if ratio >= 1 else "yellow")


def _time_ratio(row: Measurement, base: Measurement | None) -> Text:
    ratio = time_ratio(row, base)
    if ratio is None:
        return NOTHING
    return Text(f"{ratio:.2f}x", style="dim" if row is base else "")
