"""How every chart looks: colours with a light and a dark value, markers, dashes, axes, and saving."""

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

FONT_SIZE = 11.0
PANEL_INCHES = (4.5, 3.5)  # 324 points wide: on a phone of 360 pixels a chart is as large as drawn
PNG_DPI = 160


Dash = str | tuple[float, tuple[float, ...]]


class Colour(NamedTuple):
    """A colour of the page. Charts are drawn in `light`; inside the page that becomes `var(--name)`."""

    name: str
    light: str
    dark: str


PAPER = Colour("paper", "#ffffff", "#14181c")
INK = Colour("ink", "#1b2026", "#e8ecef")
MUTED = Colour("muted", "#59636d", "#a3adb6")
GRID = Colour("grid", "#dde2e6", "#2c343b")
# Text in any of these is readable on paper (WCAG AA, 4.5 to 1). The hues of the first four stay apart
# for every kind of colour blindness; markers and dashes tell all eight apart without any hue.
SERIES = (
    Colour("series-0", "#0065a3", "#5cb3f0"),
    Colour("series-1", "#b5480b", "#ff9057"),
    Colour("series-2", "#00734f", "#3ccf9c"),
    Colour("series-3", "#93327e", "#e592d0"),
    Colour("series-4", "#7d6200", "#e3c33a"),
    Colour("series-5", "#4a5560", "#b4bec8"),
    Colour("series-6", "#007a96", "#52d3e8"),
    Colour("series-7", "#a3182f", "#ff8593"),
)
HEAT = (
    Colour("heat-0", "#8fd19e", "#1e6b3a"),
    Colour("heat-1", "#cbe8b5", "#3c5c2a"),
    Colour("heat-2", "#f5ecae", "#5f5716"),
    Colour("heat-3", "#f6cf9b", "#6e4614"),
    Colour("heat-4", "#efa79d", "#7a2f2a"),
)
COLOURS = (PAPER, INK, MUTED, GRID, *SERIES, *HEAT)

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
    """Matplotlib's own defaults and ours over them, whatever a user's matplotlibrc says; then as before."""
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
    """A look for each name: built-in engines have theirs for good, others the next free ones by name."""
    others = sorted(set(engines) - set(ENGINES))
    slots = {name: slot for slot, name in enumerate([*ENGINES, *others])}
    return {
        name: Look(
            SERIES[slot % len(SERIES)].light,
            _MARKERS[slot % len(_MARKERS)],
            # Shifted at each turn of the colours, so that a colour that comes again looks otherwise.
            _DASHES[(slot + slot // len(SERIES)) % len(_DASHES)],
        )
        for name, slot in slots.items()
    }


def file_dash(file: int) -> Dash:
    """The dash of the file of that number: where there are several, it is the file's and not the engine's."""
    return _DASHES[file % len(_DASHES)]


def new_panel(below_inches: float = 0.0) -> tuple[Figure, Axes]:
    """A figure of one panel, with so much room below it for a legend."""
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height + below_inches), layout="constrained")
    return figure, figure.subplots()


def dress(axes: Axes, *, x_word: str, y_word: str) -> None:
    """Thin grid, two spines, the unit above its axis and not beside it, where it would take width."""
    axes.set_title(y_word, loc="left", fontsize=FONT_SIZE, color=MUTED.light, pad=8)
    axes.set_xlabel(x_word)
    axes.grid(visible=True, color=GRID.light, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.8)


def log_axis(axes: Axes, which: Literal["x", "y"], limits: Interval, ticks: list[tuple[float, str]]) -> None:
    """A logarithmic axis with these ticks and no others."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(*limits)
    axis = axes.xaxis if which == "x" else axes.yaxis
    words = dict(ticks)
    axis.set_major_locator(FixedLocator([value for value, _ in ticks]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.get(value, "")))
    axis.set_minor_locator(NullLocator())


def chart_bytes(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """The figure as a file, without a date: the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with house_style():
        if kind == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()
