"""The table of a row per engine: windows beside each other, and bytes a second where decoding."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from flashbench.analysis.blocks import block_label
from flashbench.analysis.decoding import is_decoding
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
from flashbench.report.layout import (
    AXIS_HEADERS,
    NOTHING,
    Along,
    Grid,
    axis_word,
    block_word,
    has_windows,
    without_window,
)
from flashbench.report.memory import memory_cells
from flashbench.report.units import format_count
from flashbench.results.record import Measurement

Cell = str | Text
FULL = "full"


def engine_table(rows: Sequence[Measurement], along: Along) -> Grid:
    """One kind of problem: a row per place along the table, window, engine and block size.

    Times are over those of the same engine without a window where that was measured, else over those of
    the first engine.
    """
    columns = [
        _places(rows, along),
        *_if(_has_several_windows(rows), ("Window", [window_word(row.problem) for row in rows])),
        *_if(names_engines(rows), ("Engine", [_engine_word(row) for row in rows])),
        *_if(_has_several_blocks(rows), ("Block", [block_word(row) or NOTHING for row in rows])),
        *_if(
            has_windows(rows) and not _are_steps(rows),
            ("Pairs", [format_count(row.problem.visible_pairs) for row in rows]),
        ),
        ("Time\n(ms)", time_cells(rows)),
        *_ratios(rows),
        *(_byte_rates(rows) if _are_steps(rows) else _operation_rates(rows)),
        *_if(any(row.memory for row in rows), ("Memory", memory_cells(rows))),
        *_if(any(row.accuracy for row in rows), ("Max\nError", [error_cell(row) for row in rows])),
        *_if(
            any(row.energy_joules is not None for row in rows),
            ("Energy\n(mJ)", [energy_cell(row) for row in rows]),
        ),
    ]
    headers = [header for header, _ in columns]
    grid = Grid(*headers, left=[place for place, header in enumerate(headers) if header == "Engine"])
    several = len({(row.engine, window_word(row.problem)) for row in rows}) > 1
    for index, cells in enumerate(zip(*(column for _, column in columns), strict=True)):
        ends = index + 1 < len(rows) and _place(rows[index + 1]) != _place(rows[index])
        grid.add_row(*cells, last=several and ends)
    return grid


def names_engines(rows: Sequence[Measurement]) -> bool:
    """Whether the table has a column of engines; a wide one of a single engine leaves it to the title."""
    names = {(row.engine, row.side) for row in rows}
    return len(names) > 1 or rows[0].side is not None or not (_are_steps(rows) or has_windows(rows))


def legend_lines(rows: Sequence[Measurement]) -> list[Text]:
    """What the columns of a table of windows or of decoding are, and what no rate knows of a mask."""
    lines = []
    if any(row.problem.mask is not None for row in rows):
        lines.append("rates count the pairs that a mask array hides too")
    if _are_steps(rows):
        lines.append("GB/s: rows of k and v that a query sees; tokens: this attention alone")
        if any((percent_of_bandwidth(row) or 0) > 100 for row in rows):
            lines.append("above 100 % of the bandwidth of memory: k and v come from the caches")
    elif has_windows(rows):
        lines.append("pairs: (query, key) of a head that the mask lets through; GFLOP/s are of these")
    return [Text(line, style="dim") for line in lines]


def _are_steps(rows: Sequence[Measurement]) -> bool:
    """Whether all are steps of decoding."""
    return all(row.direction == "fwd" and is_decoding(row.problem) for row in rows)


def _if(wanted: bool, column: tuple[str, Sequence[Cell]]) -> list[tuple[str, Sequence[Cell]]]:
    return [column] if wanted else []


def _places(rows: Sequence[Measurement], along: Along) -> tuple[str, Sequence[Cell]]:
    """Each place along the table once, in its first row."""
    words = [
        "" if index and _place(rows[index - 1]) == _place(row) else axis_word(row.problem, along)
        for index, row in enumerate(rows)
    ]
    return AXIS_HEADERS[along], words


def _place(row: Measurement) -> AttentionProblem:
    return without_window(row.problem)


def _has_several_windows(rows: Sequence[Measurement]) -> bool:
    return len({window_word(row.problem) for row in rows}) > 1


def _has_several_blocks(rows: Sequence[Measurement]) -> bool:
    return len({(row.problem, row.engine) for row in rows}) < len(rows)


def _engine_word(row: Measurement) -> str:
    return row.engine if row.side is None else f"{row.engine} ({row.side.upper()})"


def _ratios(rows: Sequence[Measurement]) -> list[tuple[str, Sequence[Cell]]]:
    """Times over those without a window, or over the first engine's; nothing where there is but one."""
    full = {
        (_place(row), row.engine, block_label(row)): row for row in reversed(rows) if not has_windows([row])
    }
    if full and has_windows(rows):
        bases = [full.get((_place(row), row.engine, block_label(row))) for row in rows]
        return [(f"Time vs\n{FULL}", [ratio_cell(row, base) for row, base in zip(rows, bases, strict=True)])]
    first = rows[0].engine
    if not names_engines(rows) and not _has_several_blocks(rows):
        return []
    base = {row.problem: row for row in reversed(rows) if row.engine == first}
    return [(f"Time vs\n{first}", [ratio_cell(row, base.get(row.problem)) for row in rows])]


def _operation_rates(rows: Sequence[Measurement]) -> list[tuple[str, Sequence[Cell]]]:
    return [
        ("GFLOP/s", [gflops_cell(row) for row in rows]),
        *_if(
            any(percent_of_peak(row) is not None for row in rows),
            ("%\nPeak", [peak_cell(row) for row in rows]),
        ),
    ]


def _byte_rates(rows: Sequence[Measurement]) -> list[tuple[str, Sequence[Cell]]]:
    return [
        ("GB/s", [gbps_cell(row) for row in rows]),
        *_if(
            any(percent_of_bandwidth(row) is not None for row in rows),
            ("% Band-\nwidth", [bandwidth_cell(row) for row in rows]),
        ),
        ("Tokens\n/s", [tokens_cell(row) for row in rows]),
    ]
