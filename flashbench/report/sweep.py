"""The sweep as heatmaps, and below each the best block size beside the documented recommendation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from flashbench.analysis.blocks import (
    AUTO,
    BlockRow,
    block_label,
    block_labels,
    block_rows,
    blocks_word,
    has_blocks,
    recommended_blocks,
)
from flashbench.analysis.group_words import problem_line, threads_word
from flashbench.analysis.groups import GroupKey, group_measurements, grouped
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.ratios import time_ratio
from flashbench.report.grid import Grid
from flashbench.report.heat import heat_of
from flashbench.report.layout import NO_POINT, heading, path_lines, reason_lines, status_cell
from flashbench.report.tones import HEAT_TONES, NOTHING, Cell, Line, Tone
from flashbench.report.units import format_change, format_times
from flashbench.results.record import Measurement, Results

_LEGEND = "time over the row's fastest (best); ~ this run cannot tell it from the fastest"
_CELL = 7  # a cell's width: "~+100% " and the like


def sweep_report(results: Results) -> RenderableType:
    """A heatmap for each engine with blocks and kind of problem, and the sizes to choose."""
    parts: list[RenderableType] = heading(results)
    for key, rows in group_measurements(results.measurements).items():
        by_engine = grouped(rows, engine_with_path)
        blockless = [engine for engine in by_engine if not has_blocks(by_engine[engine])]
        for engine in by_engine:
            if engine not in blockless:
                found = block_rows(by_engine[engine])
                others = {other: by_engine[other] for other in blockless}
                parts += [Text(), _title(engine, key, by_engine[engine]), _Heatmap(found, others)]
                parts += [Line(_LEGEND), *path_lines(by_engine[engine]), *reason_lines(by_engine[engine])]
                parts += [Text(), _choice_table(found)]
        for engine in blockless:
            parts += reason_lines(by_engine[engine])
    if not results.measurements:
        parts.append(Text(NO_POINT))
    return Group(*parts)


def _title(engine: str, key: GroupKey, rows: Sequence[Measurement]) -> Line:
    words = (engine, problem_line(key), threads_word(rows))
    return Line(", ".join(filter(None, words)), Tone.STRONG)


class _Heatmap:
    """Lengths down and block sizes across, in as many tables as the width needs."""

    def __init__(self, rows: Sequence[BlockRow], others: dict[str, list[Measurement]]) -> None:
        self._rows = rows
        self._others = others
        self._labels = block_labels(row for found in rows for row in found.points.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Beside the cells: the length, the best time, and a time for each engine without blocks.
        beside = 8 + 10 * (1 + len(self._others))
        wide = max(_CELL, *(len(label) for label in self._labels)) + 1
        count = max(1, (options.max_width - beside) // wide)
        for first in range(0, len(self._labels), count):
            yield self._table(self._labels[first : first + count])

    def _table(self, labels: Sequence[str]) -> Grid:
        sizes = (f"{label} " for label in labels)
        grid = Grid("Seq\nLen", *sizes, "Best\n(ms)", *(f"{engine}\n/ best" for engine in self._others))
        best = [row.fastest.time.median_ns for row in self._rows if row.fastest and row.fastest.time]
        words = iter(format_times(best))
        for row in self._rows:
            others = (_other_cell(rows, row) for rows in self._others.values())
            cells = (_heat_cell(row, label) for label in labels)
            grid.add_row(length_word(row.problem), *cells, next(words) if row.fastest else NOTHING, *others)
        return grid


def _heat_cell(row: BlockRow, label: str) -> Cell:
    point = row.points.get(label)
    if point is None:
        return NOTHING
    heat = heat_of(row, label)
    if heat is None:
        return status_cell(point)
    return Cell(f"{heat.text:>{_CELL - 1}} ", Tone.BEST if heat.best else HEAT_TONES[heat.level])


def _other_cell(rows: Sequence[Measurement], row: BlockRow) -> Cell:
    found = next((other for other in rows if other.problem == row.problem), None)
    if found is None:
        return NOTHING
    ratio = time_ratio(found, row.fastest)
    return status_cell(found) if ratio is None else Cell(f"{ratio:.2f}x")


def _choice_table(rows: Sequence[BlockRow]) -> Grid:
    with_auto = any(AUTO in row.points for row in rows)
    grid = Grid(
        "Seq\nLen",
        "Best\nblock",
        "Recom-\nmended",
        "Its\ncost",
        "sqrt(N)",
        *(["Auto\nchose", "Its\ncost"] if with_auto else []),
    )
    for row in rows:
        seqlen = row.problem.seqlen_k
        auto = row.points.get(AUTO)
        grid.add_row(
            length_word(row.problem),
            block_label(row.best) if row.best else NOTHING,
            "-".join(map(str, recommended_blocks(seqlen))),
            _costs(row.recommended_costs(), "not measured" if row.best else "-"),
            str(round(math.sqrt(seqlen))),
            *([_auto_choice(auto), _costs(_listed(row.cost(AUTO)), "-")] if with_auto else []),
        )
    return grid


def _auto_choice(auto: Measurement | None) -> str | Cell:
    if auto is None or auto.block_q is None or auto.block_k is None:
        return NOTHING
    return blocks_word(auto.block_q, auto.block_k)


def _listed(cost: float | None) -> list[float]:
    return [] if cost is None else [cost]


def _costs(costs: Sequence[float], otherwise: str) -> Cell:
    if not costs:
        return Cell(otherwise, Tone.QUIET)
    ends = dict.fromkeys(format_change(cost) for cost in (min(costs), max(costs)))
    return Cell(" to ".join(ends))
