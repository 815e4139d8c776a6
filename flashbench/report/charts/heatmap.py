"""Heatmap: each block size's time over the fastest, lengths down and sizes across."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashbench.analysis.blocks import AUTO, BlockRow, block_labels, block_rows, blocks_word
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.words import STATUS_WORDS
from flashbench.report.charts.series import Series
from flashbench.report.charts.style import FONT_SIZE, PANEL_INCHES, house_style
from flashbench.report.colours import HEAT, INK, MUTED, PAPER
from flashbench.report.heat import heat_of
from flashbench.results.record import Measurement

CELL_INCHES = (0.62, 0.42)


@house_style()
def heatmap_chart(series: Series) -> Figure:
    """Every block size of one engine. The fastest of a length has a frame and is called best."""
    rows = block_rows(series.sweep)
    labels = block_labels(series.sweep)
    width = max(PANEL_INCHES[0], 0.7 + CELL_INCHES[0] * len(labels))
    figure = Figure(figsize=(width, 0.8 + CELL_INCHES[1] * len(rows)), layout="constrained")
    axes = figure.subplots()
    _dress(axes, rows, labels)
    for down, row in enumerate(rows):
        for across, label in enumerate(labels):
            _draw_cell(axes, across, down, row, label)
    return figure


def cell_words(row: BlockRow, label: str) -> str:
    """The text of the cell's heat; without a time its status, and `-` if nothing was measured."""
    heat = heat_of(row, label)
    if heat is not None:
        return heat.text
    point = row.points.get(label)
    return "-" if point is None else STATUS_WORDS.get(point.status, "-")


def _dress(axes: Axes, rows: list[BlockRow], labels: list[str]) -> None:
    axes.set_xlim(0, len(labels))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([place + 0.5 for place in range(len(labels))], labels)
    axes.set_yticks([place + 0.5 for place in range(len(rows))], [length_word(row.problem) for row in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("N down, block size across", loc="left", fontsize=FONT_SIZE, color=MUTED.light, pad=8)


def _draw_cell(axes: Axes, across: int, down: int, row: BlockRow, label: str) -> None:
    point = row.points.get(label)
    heat = heat_of(row, label)
    best = heat is not None and heat.best
    axes.add_patch(
        Rectangle(
            (across + 0.02, down + 0.04),
            0.96,
            0.92,
            facecolor=PAPER.light if heat is None else HEAT[heat.level].light,
            edgecolor=INK.light if best else "none",
            linewidth=1.6 if best else 0,
        )
    )
    chosen = _chosen(point) if label == AUTO else ""
    words = cell_words(row, label)
    if heat is None:  # a status of two words or more takes two lines
        words = words.replace(" ", "\n", 1)
    axes.text(
        across + 0.5,
        down + (0.34 if chosen else 0.5),
        words,
        color=MUTED.light if heat is None else INK.light,
        fontsize=FONT_SIZE - 2 if heat is None else FONT_SIZE - 1,
        fontweight="bold" if best else "normal",
        horizontalalignment="center",
        verticalalignment="center",
    )
    if chosen:
        axes.text(
            across + 0.5,
            down + 0.72,
            chosen,
            color=INK.light,
            fontsize=FONT_SIZE - 2,
            horizontalalignment="center",
            verticalalignment="center",
        )


def _chosen(point: Measurement | None) -> str:
    """The sizes that `auto` chose here."""
    if point is None or point.block_q is None or point.block_k is None:
        return ""
    return blocks_word(point.block_q, point.block_k, times="\N{MULTIPLICATION SIGN}")
