"""What charts are made of: panels, one per kind of problem, of series, one per engine, file and side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flashbench.analysis.blocks import block_rows
from flashbench.report.charts.style import Look, engine_looks, file_dash
from flashbench.report.layout import Along, GroupKey, group_key, table_axis
from flashbench.results.record import Machine, Measurement, Results

LONGEST_LABEL = 40  # signs, with a line before them, as wide as a chart
AXIS_WORDS: dict[Along, str] = {"seqlen": "sequence length N", "keys": "keys", "head_dim": "head size"}


class Source(NamedTuple):
    """A results file under the name that a page calls it by."""

    name: str
    results: Results


class Series(NamedTuple):
    """One engine of one file, in a duel one of its sides: a line of a chart."""

    label: str
    look: Look
    machine: Machine
    rows: list[Measurement]  # along the axis
    sweep: list[Measurement]  # every block size; empty unless there are several, of which rows are the best


class Panel(NamedTuple):
    """One kind of problem in one direction: its series share a chart."""

    key: GroupKey
    series: list[Series]


def make_panels(sources: Sequence[Source]) -> list[Panel]:
    """Every measurement of the sources, in the order measured.

    Of an engine with several block sizes a series has the fastest at each place, and its label says so.
    """
    every = [row for source in sources for row in source.results.measurements]
    along = table_axis(every)
    looks = engine_looks(row.engine for row in every)
    groups: dict[GroupKey, dict[tuple[int, str, str], list[Measurement]]] = {}
    for number, source in enumerate(sources):
        for row in source.results.measurements:
            lines = groups.setdefault(group_key(row, along), {})
            lines.setdefault((number, row.engine, row.side or ""), []).append(row)
    return [
        Panel(
            key,
            [
                _series(sources, number, side, looks[engine], rows, along)
                for (number, engine, side), rows in lines.items()
            ],
        )
        for key, lines in groups.items()
    ]


def _series(
    sources: Sequence[Source], number: int, side: str, look: Look, rows: list[Measurement], along: Along
) -> Series:
    several = len({row.blocks_asked for row in rows}) > 1
    words = [rows[0].engine]
    if side:
        words.insert(0, f"{side.upper()}:")
        look = look._replace(hollow=side == "b")
    if several:
        words.append("(best block)")
    if len(sources) > 1:
        words.append(f"\N{MIDDLE DOT} {sources[number].name}")
        look = look._replace(dash=file_dash(number), hollow=look.hollow if side else number % 2 == 1)
    best = [found.fastest for found in block_rows(rows) if found.fastest] if several else rows
    return Series(
        label=_shortened(" ".join(words)),
        look=look,
        machine=sources[number].results.machine,
        rows=sorted(best, key=lambda row: axis_value(row, along)),
        sweep=rows if several else [],
    )


def _shortened(label: str) -> str:
    """Without its middle where it is longer than a chart is wide: the engine is in front, the file behind."""
    half = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def axis_value(row: Measurement, along: Along) -> int:
    """Where along the axis a measurement stands; keys count where queries differ from them in number."""
    return row.problem.head_dim if along == "head_dim" else row.problem.seqlen_k


def measured_peaks(panel: Panel) -> list[float]:
    """GFLOP/s of the machines of a panel in its dtype, where they were measured."""
    peaks = {series.machine.peak_gflops.get(panel.key.problem.dtype) for series in panel.series}
    return sorted(peak for peak in peaks if peak)
