"""What was computed before anything ran, as a table by length and engine, or as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from flashbench.analysis.blocks import AUTO, blocks_word
from flashbench.report.layout import (
    AXIS_HEADERS,
    DIRECTION_WORDS,
    NOTHING,
    Along,
    Grid,
    GroupKey,
    axis_word,
    problem_key,
    problem_line,
)
from flashbench.report.units import format_bytes
from flashbench.studies.memory_fit.predict import Fit, Prediction, Predictions
from flashbench.texts import to_json

SCHEMA_VERSION = 1
_HEADERS = ("Forward\nneeds", "Fits", "Training\nneeds", "Fits", "Longest\ntrained")


def predict_report(predictions: Predictions) -> RenderableType:
    """A table per kind of problem, and why an engine is not asked."""
    groups: dict[GroupKey, list[Prediction]] = {}
    for row in predictions.predictions:
        groups.setdefault(problem_key(row.problem, "fwd"), []).append(row)
    budget = format_bytes(predictions.budget_bytes) + (" of free memory" if predictions.free else "")
    parts: list[RenderableType] = [
        Text(f"Does it fit in {budget}? Computed, nothing was measured", style="bold"),
        Text("needs: inputs, outputs and workspace; training: a forward, then a backward", style="dim"),
    ]
    for key, rows in groups.items():
        # Both directions stand in the table.
        title = problem_line(key).removeprefix(f"{DIRECTION_WORDS['fwd']}, ")
        parts += [Text(), Text(title, style="bold"), _table(rows, key.along), *_reasons(rows)]
    return Group(*parts)


def predict_json(predictions: Predictions) -> str:
    """Every figure in bytes."""
    document = {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(predictions)}
    return msgspec.json.format(to_json(document), indent=2).decode() + "\n"


def _table(rows: Sequence[Prediction], along: Along) -> Grid:
    with_blocks = len({(row.problem, row.engine) for row in rows}) < len(rows)
    grid = Grid(AXIS_HEADERS[along], "Engine", *(["Block"] if with_blocks else []), *_HEADERS, left=[1])
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


def _cells(fit: Fit) -> tuple[str | Text, str | Text]:
    if fit.needed_bytes is None:
        word = "unknown" if fit.reason is None else "unsupported"
        return Text(word, style="dim" if fit.reason is None else "yellow"), NOTHING
    return format_bytes(fit.needed_bytes), Text("yes", style="green") if fit.fits else Text(
        "no", style="bold red"
    )


def _reasons(rows: Sequence[Prediction]) -> list[Text]:
    """One line per engine and reason."""
    lines = [
        f"{row.engine}, {name}: unsupported: {fit.reason}"
        for row in rows
        for name, fit in (("forward", row.forward), ("training", row.training))
        if fit.reason is not None
    ]
    return [Text(line, style="dim") for line in dict.fromkeys(lines)]
