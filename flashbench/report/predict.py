"""What was computed before anything ran, as a table by length and engine, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType

from flashbench.analysis.blocks import AUTO, blocks_word
from flashbench.analysis.group_words import place_words, problem_line
from flashbench.analysis.groups import Along, grouped, problem_key
from flashbench.report.cells import fits_cell, size_cell
from flashbench.report.grid import Column, Grid, Section, grid_of, when
from flashbench.report.layout import AXES
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_bytes
from flashbench.studies.memory_fit.predict import Fit, Prediction, Predictions
from flashbench.texts import indented_json

SCHEMA_VERSION = 1


def predict_report(predictions: Predictions) -> RenderableType:
    """A table for each kind of problem, and why an engine has no figures."""
    budget = format_bytes(predictions.budget_bytes) + (" of free memory" if predictions.free else "")
    parts: list[RenderableType] = [
        Line(f"Does it fit in {budget}? Computed, nothing was measured", Tone.STRONG),
        Line("needs: inputs, outputs and workspace; training: a forward, then a backward"),
    ]
    for key, rows in grouped(predictions.predictions, lambda row: problem_key(row.problem, "fwd")).items():
        title = problem_line(key, both_directions=True)
        parts += Section(title, _table(rows, key.along), _reasons(rows)).parts()
    return Group(*parts)


def predict_json(predictions: Predictions) -> str:
    """Every figure in bytes."""
    document = {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(predictions)}
    return indented_json(document).decode()


def _table(rows: Sequence[Prediction], along: Along) -> Grid:
    with_blocks = len({(row.problem, row.engine, row.path) for row in rows}) < len(rows)
    several = len({_engine(row) for row in rows}) > 1 or with_blocks
    problems = [row.problem for row in rows]
    columns = [
        Column(AXES[along].header, place_words(problems, along)),
        Column("Engine", [_engine(row) for row in rows], left=True),
        *when(with_blocks, Column("Block", [_block(row) for row in rows])),
        *_fit_columns("Forward\nneeds", [row.forward for row in rows]),
        *_fit_columns("Training\nneeds", [row.training for row in rows]),
        Column("Longest\ntrained", [_longest(row.longest_training_seqlen) for row in rows]),
    ]
    return grid_of(columns, problems if several else None)


def _engine(row: Prediction) -> str:
    return row.engine if row.path is None else f"{row.engine} ({row.path})"


def _fit_columns(header: str, fits: Sequence[Fit]) -> tuple[Column, Column]:
    needed, answers = zip(*map(_cells, fits), strict=True)
    return Column(header, needed), Column("Fits", answers)


def _longest(seqlen: int | None) -> str | Cell:
    return NOTHING if seqlen is None else f"{seqlen:,}"


def _block(row: Prediction) -> str:
    return AUTO if row.block_q is None or row.block_k is None else blocks_word(row.block_q, row.block_k)


def _cells(fit: Fit) -> tuple[Cell, Cell]:
    if fit.needed_bytes is not None:
        return size_cell(fit.needed_bytes), fits_cell(bool(fit.fits))
    if fit.reason is None:
        return Cell("unknown", Tone.QUIET), NOTHING
    return Cell("unsupported", Tone.DOUBTFUL), NOTHING


def _reasons(rows: Sequence[Prediction]) -> list[Line]:
    """One line for each engine and reason."""
    lines = [
        f"{_engine(row)}, {name}: unsupported: {fit.reason}"
        for row in rows
        for name, fit in (("forward", row.forward), ("training", row.training))
        if fit.reason is not None
    ]
    return list(map(Line, dict.fromkeys(lines)))
