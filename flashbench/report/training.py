"""The documented section "Can Train?" as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from flashbench.analysis.group_words import problem_line
from flashbench.analysis.groups import grouped, problem_key
from flashbench.analysis.problem_words import length_word
from flashbench.report.cells import fits_cell, size_cell
from flashbench.report.grid import Grid, Section
from flashbench.report.tones import Cell, Line, Tone
from flashbench.report.units import format_bytes
from flashbench.studies.memory_fit.fits import TrainingFit
from flashbench.studies.memory_fit.training import TrainingRow

_UNKNOWN = Cell("unknown", Tone.QUIET)


def training_report(rows: Sequence[TrainingRow], budget_bytes: int) -> RenderableType:
    """One table for each kind of problem: what a step needs at each length, and the longest that fits."""
    parts: list[RenderableType] = [
        Line(f"Can train? ({format_bytes(budget_bytes)})", Tone.STRONG),
        Line("a training step of this layer: inputs, outputs and workspace, computed"),
    ]
    for key, group in grouped(rows, lambda row: problem_key(row.problem, "fwd_bwd")).items():
        parts += Section(problem_line(key), _table(group)).parts()
    return Group(*parts)


def _table(rows: Sequence[TrainingRow]) -> Grid:
    engines = list(rows[0].fits)
    headers = (header for engine in engines for header in (f"{engine}\nneeds", f"{engine}\ntrains"))
    grid = Grid("Seq Len", *headers)
    for index, row in enumerate(rows):
        cells = (cell for engine in engines for cell in _cells(row.fits[engine]))
        grid.add_row(length_word(row.problem), *cells, last=index == len(rows) - 1)
    # Every row has the same longest length: it is searched for, not read from the rows.
    longest = (cell for engine in engines for cell in ("", _longest([row.fits[engine] for row in rows])))
    grid.add_row("longest", *longest)
    return grid


def _cells(fit: TrainingFit | None) -> tuple[Cell, Cell]:
    return (_UNKNOWN, _UNKNOWN) if fit is None else (size_cell(fit.needed_bytes), fits_cell(fit.fits))


def _longest(fits: Sequence[TrainingFit | None]) -> str | Cell:
    known = [fit.longest_seqlen for fit in fits if fit is not None]
    return f"{max(known):,}" if known else _UNKNOWN
