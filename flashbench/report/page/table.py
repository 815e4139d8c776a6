"""A table of the page: its cells with their tones. The template decides how they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flashbench.report.tones import Cell


class Heading(NamedTuple):
    """The heading of a column. Words are left-aligned, figures right-aligned."""

    text: str
    words: bool = False


class Table(NamedTuple):
    """Every row has one cell for each column; the first columns head their rows."""

    id: str
    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    row_headings: int
    notes: Sequence[str]


def make_table(
    id_: str,
    caption: str,
    headings: Sequence[Heading],
    rows: Sequence[Sequence[Cell | str]],
    *,
    row_headings: int = 1,
    notes: Sequence[str] = (),
) -> Table:
    """A table without its empty columns. row_headings: columns that head their rows; they stay."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    kept = [
        place
        for place in range(len(headings))
        if place < row_headings or any(row[place].text for row in cells)
    ]
    return Table(
        id_,
        caption,
        [headings[place] for place in kept],
        [[row[place] for place in kept] for row in cells],
        row_headings,
        notes,
    )
