"""What was computed before anything ran, as a table by length and engine, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType

from flashbench.analysis.blocks import AUTO, blocks_word
from flashbench.analysis.group_words import axis_word, problem_line
from flashbench.analysis.groups import Along, grouped, problem_key
from flashbench.report.cells import fits_cell, size_cell
from flashbench.report.grid import Grid, Section
from flashbench.report.layout import AXES
from flashbench.report.tones import NOTHING, Cell, Line, Tone
from flashbench.report.units import format_bytes
from flashbench.studies.memory_fit.predict import Fit, Prediction, Predictions
from flashbench.texts import indented_json

SCHEMA_VERSION = 1
_HEADERS = ("Forward\nneeds", "Fits", "Training\nneeds", "Fits", "Longest\ntrained")


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
    with_blocks = len({(row.problem, row.engine) for row in rows}) < len(rows)
    grid = Grid(AXES[along].header, "Engine", *(["Block"] if with_blocks else []), *_HEADERS, left=[1])
    for index, row in enumerate(rows):
        begins = index == 0 or rows[index - 1].problem != row.problem
        ends = index + 1 < len(rows) and rows[index + 1].problem != row.problem
        several = len({each.engine for each in rows}) > 1 or with_blocks
        grid.add_row(
            axis_word(row.problem, along) if begins else "",
            row.engine,
            *([_block(row)] if with_blocks else []),
            *_cells(row.forward),
            *_cells(row.training),
            NOTHING if row.longest_training_seqlen is None else f"{row.longest_training_seqlen:,}",
            last=several and ends,
        )
    return grid


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
        f"{row.engine}, {name}: unsupported: {fit.reason}"
        for row in rows
        for name, fit in (("forward", row.forward), ("training", row.training))
        if fit.reason is not None
    ]
    return list(map(Line, dict.fromkeys(lines)))
