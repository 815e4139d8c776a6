"""What the tables of `train` and `infer` have in common: their parts as Markdown, ratios, and statuses."""

from __future__ import annotations

from collections.abc import Iterable

from flashbench.analysis.words import STATUS_WORDS
from flashbench.report.escapes import escape_markdown
from flashbench.report.grid import Grid
from flashbench.report.tones import BOLD, NOTHING, Cell, Line, status_tone
from flashbench.report.units import format_wide_ratio
from flashbench.results.record import Status


def parts_markdown(parts: Iterable[Line | Grid]) -> str:
    """Lines and tables as GitHub renders them."""
    blocks = []
    for part in parts:
        if isinstance(part, Grid):
            blocks.append(part.markdown())
        elif part.text:
            word = escape_markdown(part.text)
            blocks.append(f"**{word}**" if part.tone in BOLD else word)
    return "\n\n".join(blocks)


def ratio_cell(ratio: float | None) -> str | Cell:
    """How many times faster."""
    return NOTHING if ratio is None else format_wide_ratio(ratio)


def status_word(status: Status) -> str:
    """Short, as the tables have many columns."""
    return "n/a" if status == "unsupported" else STATUS_WORDS[status]


def status_cell(status: Status) -> Cell:
    """In place of a missing figure."""
    return Cell(status_word(status), status_tone(status))
