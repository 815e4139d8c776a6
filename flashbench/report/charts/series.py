"""The parts of charts: a panel for each kind of problem, in it a series for each engine, file and side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flashbench.analysis.blocks import block_rows
from flashbench.analysis.groups import Along, GroupKey, group_key, table_axis
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.scaling import has_scaling
from flashbench.analysis.words import counted
from flashbench.report.charts.style import Look, engine_looks, nth_dash
from flashbench.results.peaks import peak_of
from flashbench.results.record import Machine, Measurement, Results

LONGEST_LABEL = 40  # characters: with its line in front, as wide as a chart


class Source(NamedTuple):
    """A results file and its name on the page."""

    name: str
    results: Results


class Series(NamedTuple):
    """A line of a chart: one engine of one file, or one side of a duel."""

    name: str
    label: str  # the name, and `(best block)` if rows are the best of several block sizes
    look: Look
    machine: Machine
    rows: list[Measurement]  # along the axis
    sweep: list[Measurement]  # every block size; empty unless there are several


class Panel(NamedTuple):
    """One kind of problem in one direction: its series share a chart."""

    key: GroupKey
    series: list[Series]


def make_panels(sources: Sequence[Source]) -> list[Panel]:
    """Every measurement of the sources, in the order measured.

    If an engine has several block sizes, its series has the fastest at each place, and its label says so.
    """
    every = [row for source in sources for row in source.results.measurements]
    along = table_axis(every)
    looks = engine_looks(row.engine for row in every)
    paths = list(dict.fromkeys(row.path_asked for row in every if row.path_asked is not None))
    groups: dict[GroupKey, dict[tuple[int, str, str, str | None, int | None], list[Measurement]]] = {}
    for number, source in enumerate(sources):
        curves = has_scaling(source.results.measurements)
        for row in source.results.measurements:
            lines = groups.setdefault(group_key(row, along), {})
            threads = row.threads if curves else None
            lines.setdefault((number, row.engine, row.side or "", row.path_asked, threads), []).append(row)
    return [
        Panel(
            key,
            [
                _series(sources, number, side, threads, _with_path(looks[engine], path, paths), rows, along)
                for (number, engine, side, path, threads), rows in lines.items()
            ],
        )
        for key, lines in groups.items()
    ]


def _with_path(look: Look, path: str | None, paths: list[str]) -> Look:
    return look if path is None else look._replace(dash=nth_dash(paths.index(path)))


def _series(
    sources: Sequence[Source],
    number: int,
    side: str,
    threads: int | None,
    look: Look,
    rows: list[Measurement],
    along: Along,
) -> Series:
    several = len({row.blocks_asked for row in rows}) > 1
    engine = engine_with_path(rows[0])
    if side:
        engine = f"{side.upper()}: {engine}"
        look = look._replace(hollow=side == "b")
    if threads is not None:
        engine = f"{engine}, {counted(threads, 'thread')}"
    file, of_file = file_marks(sources, number, look)
    look = of_file._replace(hollow=look.hollow) if side else of_file
    best = [found.fastest for found in block_rows(rows) if found.fastest] if several else rows
    return Series(
        name=shortened(engine + file),
        label=shortened(f"{engine}{' (best block)' if several else ''}{file}"),
        look=look,
        machine=sources[number].results.machine,
        rows=sorted(best, key=lambda row: axis_value(row, along)),
        sweep=rows if several else [],
    )


def file_marks(sources: Sequence[Source], number: int, look: Look) -> tuple[str, Look]:
    """What tells a file's lines from another's: the end of their labels, and a dash. Nothing for one file."""
    if len(sources) == 1:
        return "", look
    name = f" \N{MIDDLE DOT} {sources[number].name}"
    return name, look._replace(dash=nth_dash(number), hollow=number % 2 == 1)


def shortened(label: str) -> str:
    """The label without its middle if it is too long: the engine is in front, the file at the end."""
    half = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[:half]}\N{HORIZONTAL ELLIPSIS}{label[-half:]}"


def axis_value(row: Measurement, along: Along) -> int:
    """A measurement's place along the axis: its head size, or its number of keys."""
    return row.problem.head_dim if along == "head_dim" else row.problem.seqlen_k


def measured_peaks(panel: Panel) -> list[float]:
    """GFLOP/s of the paths of a panel on its machines, if measured."""
    peaks = {peak_of(series.machine, row) for series in panel.series for row in series.rows}
    return sorted(peak for peak in peaks if peak)
