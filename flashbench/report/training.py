"""The documented section "Can Train?" as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.problem_words import length_word
from flashbench.report.layout import Grid, GroupKey, problem_key, problem_line
from flashbench.report.units import format_bytes
from flashbench.studies.memory_fit.fits import TrainingFit
from flashbench.studies.memory_fit.training import TrainingRow

_UNKNOWN = Text("unknown", style="dim")


def training_report(rows: Sequence[TrainingRow], budget_bytes: int) -> RenderableType:
    """One table per kind of problem: what a step needs at each length, and the longest that fits."""
    groups: dict[GroupKey, list[TrainingRow]] = {}
    for row in rows:
        groups.setdefault(problem_key(row.problem, "fwd_bwd"), []).append(row)
    parts: list[RenderableType] = [
        Text(f"Can train? ({format_bytes(budget_bytes)})", style="bold"),
        Text("a training step of this layer: inputs, outputs and workspace, computed", style="dim"),
    ]
    for key, group in groups.items():
        parts += [Text(), Text(problem_line(key), style="bold"), _table(group)]
    return Group(*parts)


def _table(rows: Sequence[TrainingRow]) -> Grid:
    engines = list(rows[0].fits)
    headers = (header for engine in engines for header in (f"{engine}\nneeds", f"{engine}\ntrains"))
    grid = Grid("Seq Len", *headers)
    for index, row in enumerate(rows):
        cells = (cell for engine in engines for cell in _cells(row.fits[engine]))
        grid.add_row(length_word(row.problem), *cells, last=index == len(rows) - 1)
    # The same from every length, since it is searched for.
    longest = (cell for engine in engines for cell in ("", _longest([row.fits[engine] for row in rows])))
    grid.add_row("longest", *longest)
    return grid


def _cells(fit: TrainingFit | None) -> tuple[str | Text, str | Text]:
    if fit is None:
        return _UNKNOWN, _UNKNOWN
    answer = Text("yes", style="green") if fit.fits else Text("no", style="bold red")
    return format_bytes(fit.needed_bytes), answer


def _longest(fits: Sequence[TrainingFit | None]) -> str | Text:
    known = [fit.longest_seqlen for fit in fits if fit is not None]
    return f"{max(known):,}" if known else _UNKNOWN
