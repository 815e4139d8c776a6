"""A table of the page: its words and what they are, not how they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Tone = Literal["", "good", "bad", "doubtful"]


class Cell(NamedTuple):
    """A cell, or a heading of a row."""

    text: str
    tone: Tone = ""
    row_heading: bool = False


class Table(NamedTuple):
    """Every row has as many cells as there are headings."""

    id: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset()  # columns of words, to the left; the others are figures
    notes: Sequence[str] = ()


def make_table(
    id_: str,
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    words: Sequence[str] = (),
    row_headings: int = 1,
    notes: Sequence[str] = (),
) -> Table:
    """A table whose columns of nothing but blanks are left out.

    `words` names the columns of words; the first `row_headings` columns head their rows.
    """
    cells = [
        [
            (cell if isinstance(cell, Cell) else Cell(cell))._replace(row_heading=place < row_headings)
            for place, cell in enumerate(row)
        ]
        for row in rows
    ]
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
        frozenset(index for index, place in enumerate(kept) if headings[place] in words),
        notes,
    )
