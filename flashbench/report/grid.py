"""A table of a report, for the terminal and for Markdown, and its title and lines around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from flashbench.report.escapes import escape_markdown, markdown_list
from flashbench.report.tones import BOLD, STYLES, Cell, Line, Tone


class Grid:
    """A table as wide as the console allows.

    If it is too wide, its gaps get narrow and its headers take two lines, and at last its cells take their
    brief text.
    """

    def __init__(self, *headers: str, left: Iterable[int] = (), whole: bool = False) -> None:
        """A line break in a header is a place where it may break; a hyphen before it stays only there.

        left: numbers of the left-aligned columns. whole: only these may break their cells.
        """
        self._headers = headers
        self._left = frozenset(left)
        self._whole = whole
        self._rows: list[tuple[list[Cell], bool]] = []

    def add_row(self, *cells: str | Cell, last: bool = False) -> None:
        """Add a row. last: a blank line follows it."""
        self._rows.append(([Cell(cell) if isinstance(cell, str) else cell for cell in cells], last))

    def _table(self, gap: int, *, broken: bool, brief: bool = False) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap - 1))
        for index, header in enumerate(self._headers):
            left = index in self._left
            table.add_column(
                Text(header if broken else _unbroken(header), style=STYLES[Tone.STRONG]),
                justify="left" if left else "right",
                vertical="bottom",
                no_wrap=self._whole and not left,
            )
        for cells, last in self._rows:
            shown = [cell._replace(text=cell.brief) if brief and cell.brief else cell for cell in cells]
            table.add_row(*shown, end_section=last)
        return table

    def markdown(self) -> str:
        """The same table as GitHub renders it. Each text is shown as it is; important tones are bold."""
        lines = [
            [escape_markdown(_unbroken(header), in_cell=True) for header in self._headers],
            [":--" if index in self._left else "--:" for index in range(len(self._headers))],
            *([_markdown_cell(cell) for cell in cells] for cells, _ in self._rows),
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table(1, broken=True, brief=True)
        for gap, broken in ((3, False), (2, False), (3, True), (2, True), (1, True)):
            wider = self._table(gap, broken=broken)
            if console.measure(wider, options=options.update_width(10_000)).maximum <= options.max_width:
                table = wider
                break
        yield table


class Column(NamedTuple):
    """A column of a grid, with one cell for each row."""

    header: str
    cells: Sequence[str | Cell]
    left: bool = False


def when(wanted: bool, *columns: Column) -> Sequence[Column]:
    """The columns, if they are wanted."""
    return columns if wanted else ()


def grid_of(columns: Sequence[Column], places: Sequence[object] | None = None) -> Grid:
    """The grid of these columns. places: one for each row; a blank line comes between different places."""
    grid = Grid(
        *(column.header for column in columns),
        left=[number for number, column in enumerate(columns) if column.left],
    )
    for index, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
        last = places is not None and index + 1 < len(places) and places[index + 1] != places[index]
        grid.add_row(*cells, last=last)
    return grid


class Section(NamedTuple):
    """One table, its title, and the lines below it that explain missing or flagged figures."""

    title: str
    grid: Grid
    lines: Sequence[Line] = ()

    def parts(self) -> list[RenderableType]:
        """For the terminal, with a blank line above."""
        return [Text(), Line(self.title, Tone.STRONG), self.grid, *self.lines]

    def markdown(self) -> list[str]:
        """Blocks of Markdown below the title, which each report writes in its own way."""
        return [self.grid.markdown(), markdown_list(map(str, self.lines))]


def _unbroken(header: str) -> str:
    return header.replace("-\n", "").replace("\n", " ")


def _markdown_cell(cell: Cell) -> str:
    word = escape_markdown(str(cell), in_cell=True)
    # An empty cell repeats the row above; a dash would say that there is nothing.
    return f"**{word}**" if word and cell.tone in BOLD else word or " "
