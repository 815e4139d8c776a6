"""The table with a row for each engine: windows beside each other, and bytes a second for decoding."""

from __future__ import annotations

from collections.abc import Sequence

from flashbench.analysis.blocks import block_word
from flashbench.analysis.decoding import is_decoding
from flashbench.analysis.group_words import place_words
from flashbench.analysis.groups import Along, has_windows, without_window
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.scaling import alike, bases, efficiency, has_scaling, speed_up
from flashbench.features.words import window_word
from flashbench.problem import AttentionProblem
from flashbench.report.cells import (
    bandwidth_cell,
    energy_cell,
    error_cell,
    gbps_cell,
    gflops_cell,
    peak_cell,
    percent_of_bandwidth,
    percent_of_peak,
    ratio_cell,
    time_cells,
    tokens_cell,
)
from flashbench.report.grid import Column, Grid, grid_of, when
from flashbench.report.layout import AXES
from flashbench.report.memory import memory_cells
from flashbench.report.tones import NOTHING, Cell, Line
from flashbench.report.units import format_count
from flashbench.results.record import Measurement

FULL = "full"


def engine_table(rows: Sequence[Measurement], along: Along) -> Grid:
    """One kind of problem: a row for each place along the table, window, engine and block size.

    Times are relative to the same engine without a window if that was measured, otherwise to the first
    engine.
    """
    places = [without_window(row.problem) for row in rows]
    columns = [
        Column(AXES[along].header, place_words(places, along)),
        *when(_has_several_windows(rows), Column("Window", [window_word(row.problem) for row in rows])),
        *when(names_engines(rows), Column("Engine", [_engine_word(row) for row in rows], left=True)),
        *when(has_scaling(rows), Column("Threads", [str(row.threads or NOTHING) for row in rows])),
        *when(_has_several_blocks(rows), Column("Block", [block_word(row) or NOTHING for row in rows])),
        *when(
            has_windows(rows) and not _are_steps(rows),
            Column("Pairs", [format_count(row.problem.visible_pairs) for row in rows]),
        ),
        Column("Time\n(ms)", time_cells(rows)),
        *_scaling(rows),
        *_ratios(rows),
        *(_byte_rates(rows) if _are_steps(rows) else _operation_rates(rows)),
        *when(any(row.memory for row in rows), Column("Memory", memory_cells(rows))),
        *when(
            any(row.accuracy for row in rows),
            Column("Max\nError", [error_cell(row.accuracy) for row in rows]),
        ),
        *when(
            any(row.energy_joules is not None for row in rows),
            Column("Energy\n(mJ)", [energy_cell(row) for row in rows]),
        ),
    ]
    several = len({(engine_with_path(row), window_word(row.problem), row.threads) for row in rows}) > 1
    return grid_of(columns, places if several else None)


def names_engines(rows: Sequence[Measurement]) -> bool:
    """Whether the table has a column of engines. A wide table of one engine names it in the title."""
    names = {(row.engine, row.path_asked, row.side) for row in rows}
    return len(names) > 1 or rows[0].side is not None or not (_are_steps(rows) or has_windows(rows))


def legend_lines(rows: Sequence[Measurement]) -> list[Line]:
    """What rates of masks, and the columns of windows and of decoding, mean."""
    lines = []
    if any(row.problem.mask is not None for row in rows):
        lines.append("rates count the pairs that a mask array hides too")
    if has_scaling(rows):
        lines.append("speed-up over the fewest threads; peaks measured on as many threads")
    if _are_steps(rows):
        lines.append("GB/s: rows of k and v that a query sees; tokens: this attention alone")
        if any((percent_of_bandwidth(row) or 0) > 100 for row in rows):
            lines.append("above 100 % of the bandwidth of memory: k and v come from the caches")
    elif has_windows(rows):
        lines.append("pairs: (query, key) of a head that the mask lets through; GFLOP/s are of these")
    return list(map(Line, lines))


def _are_steps(rows: Sequence[Measurement]) -> bool:
    """Whether all are steps of decoding."""
    return all(row.direction == "fwd" and is_decoding(row.problem) for row in rows)


def _place(row: Measurement) -> AttentionProblem:
    return without_window(row.problem)


def _without_window(row: Measurement) -> tuple[object, ...]:
    """What tells a measurement from others, except its window."""
    return _place(row), row.engine, row.path_asked, row.blocks_asked, row.threads


def _has_several_windows(rows: Sequence[Measurement]) -> bool:
    return len({window_word(row.problem) for row in rows}) > 1


def _has_several_blocks(rows: Sequence[Measurement]) -> bool:
    return len({(row.problem, row.engine, row.path_asked, row.threads) for row in rows}) < len(rows)


def _engine_word(row: Measurement) -> str:
    name = engine_with_path(row)
    return name if row.side is None else f"{name} ({row.side.upper()})"


def _ratios(rows: Sequence[Measurement]) -> list[Column]:
    """Times over those without a window, or over the first engine's; no column if all rows are alike."""
    full = {_without_window(row): row for row in reversed(rows) if not has_windows([row])}
    if full and has_windows(rows):
        bases = [full.get(_without_window(row)) for row in rows]
        ratios = [ratio_cell(row, base) for row, base in zip(rows, bases, strict=True)]
        return [Column(f"Time vs\n{FULL}", ratios)]
    first = engine_with_path(rows[0])
    one = len({engine_with_path(row) for row in rows}) == 1
    if (not names_engines(rows) or (one and has_scaling(rows))) and not _has_several_blocks(rows):
        return []
    base = {(row.problem, row.threads): row for row in reversed(rows) if engine_with_path(row) == first}
    word = rows[0].path_asked or first  # a path's name alone is narrower
    return [
        Column(f"Time vs\n{word}", [ratio_cell(row, base.get((row.problem, row.threads))) for row in rows])
    ]


def _scaling(rows: Sequence[Measurement]) -> list[Column]:
    """Speed-up and efficiency over the fewest threads; no column without a scaling curve."""
    fewest = bases(rows)
    if not fewest:
        return []
    pairs = [(row, fewest.get(alike(row))) for row in rows]
    return [
        Column("Speed-\nup", [_share(speed_up(*pair), "{:.2f}x") for pair in pairs]),
        Column("Effi-\nciency", [_share(efficiency(*pair), "{:.0%}") for pair in pairs]),
    ]


def _share(value: float | None, form: str) -> str | Cell:
    return NOTHING if value is None else form.format(value)


def _operation_rates(rows: Sequence[Measurement]) -> list[Column]:
    with_peak = any(percent_of_peak(row) is not None for row in rows)
    return [
        # Beside a scaling curve and the percentage, rates would take more than 80 columns.
        *when(
            not (with_peak and has_scaling(rows)),
            Column("GFLOP/s", [gflops_cell(row) for row in rows]),
        ),
        *when(with_peak, Column("%\nPeak", [peak_cell(row) for row in rows])),
    ]


def _byte_rates(rows: Sequence[Measurement]) -> list[Column]:
    return [
        Column("GB/s", [gbps_cell(row) for row in rows]),
        *when(
            any(percent_of_bandwidth(row) is not None for row in rows),
            Column("% Band-\nwidth", [bandwidth_cell(row) for row in rows]),
        ),
        Column("Tokens\n/s", [tokens_cell(row) for row in rows]),
    ]
