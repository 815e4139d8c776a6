"""How every chart looks: markers, dashes, axes, and saving. The colours are in `report.colours`."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from flashbench.engines import ENGINES
from flashbench.report.charts.ticks import Interval
from flashbench.report.colours import GRID, INK, MUTED, PAPER, SERIES

FONT_SIZE = 11.0
PANEL_INCHES = (4.5, 3.5)  # 324 points wide: on a phone of 360 pixels a chart is as large as drawn
PNG_DPI = 160
Dash = str | tuple[float, tuple[float, ...]]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
# Any: newer releases of Matplotlib list every key in its type, older ones have none.
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: found, selected, and in the page's own font
    "svg.hashsalt": "flashbench",  # the same chart has the same bytes
    "text.parse_math": False,  # an engine may have a dollar sign in its name
    "font.family": "sans-serif",
    "font.size": FONT_SIZE,
    "text.color": INK.light,
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": PAPER.light,
    "axes.labelcolor": MUTED.light,
    "figure.facecolor": PAPER.light,
    "savefig.facecolor": PAPER.light,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults with ours over them, without the user's matplotlibrc; afterwards as before."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


class Look(NamedTuple):
    """How one series is drawn."""

    colour: str
    marker: str
    dash: Dash
    hollow: bool = False


def engine_looks(engines: Iterable[str]) -> dict[str, Look]:
    """A look for each name. Built-in engines always have the same; others take the next free ones by name."""
    others = sorted(set(engines) - set(ENGINES))
    slots = {name: slot for slot, name in enumerate([*ENGINES, *others])}
    return {
        name: Look(
            SERIES[slot % len(SERIES)].light,
            _MARKERS[slot % len(_MARKERS)],
            # Shifted at each turn of the colours, so that a repeated colour has another dash.
            _DASHES[(slot + slot // len(SERIES)) % len(_DASHES)],
        )
        for name, slot in slots.items()
    }


def nth_dash(number: int) -> Dash:
    """The dash of a file, or of a path asked for, by its number. It then shows these, not the engine."""
    return _DASHES[number % len(_DASHES)]


def dress(axes: Axes, *, x_word: str, y_word: str) -> None:
    """Thin grid and two spines. The unit is above its axis: beside it, it would take width."""
    axes.set_title(y_word, loc="left", fontsize=FONT_SIZE, color=MUTED.light, pad=8)
    axes.set_xlabel(x_word)
    axes.grid(visible=True, color=GRID.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.8)


def log_axis(axes: Axes, which: Literal["x", "y"], limits: Interval, ticks: list[tuple[float, str]]) -> None:
    """A logarithmic axis with only these ticks."""
    getattr(axes, f"set_{which}scale")("log")
    linear_axis(axes, which, limits, ticks)


def linear_axis(
    axes: Axes, which: Literal["x", "y"], limits: Interval, ticks: list[tuple[float, str]]
) -> None:
    """An axis with only these ticks, linear unless its scale was set before."""
    getattr(axes, f"set_{which}lim")(*limits)
    axis = axes.xaxis if which == "x" else axes.yaxis
    words = dict(ticks)
    axis.set_major_locator(FixedLocator([value for value, _ in ticks]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.get(value, "")))
    axis.set_minor_locator(NullLocator())


def chart_bytes(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """The figure as a file, without a date, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with house_style():
        if kind == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()
