"""Lines over two axes, each named at its end: most charts share this."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from flashbench.report.charts.series import Panel, axis_value
from flashbench.report.charts.style import FONT_SIZE, PANEL_INCHES, Look, dress, house_style, log_axis
from flashbench.report.charts.ticks import Interval, padded, spread_out, value_ticks
from flashbench.report.colours import INK, PAPER
from flashbench.report.layout import AXES
from flashbench.results.record import Measurement

Value = Callable[[Measurement], float | None]
# Longer names, or more of them, go below the chart. At its side they would take its width.
LONGEST_NAME = 13
MOST_NAMES = 6
LONGEST_IN_TWO = 18  # longest name of a legend in two columns, beside ticks such as 256 MiB
LEGEND_LINE_INCHES = 0.21
BELOW_AXIS_POINTS = 44  # height of the ticks and the axis's name
NAME_GAP = 0.075  # height of a line of text, as a share of the axes' height


class Limits(NamedTuple):
    """Limits of both axes. All panels of a chart share them, so that they can be compared by eye."""

    x: Interval
    y: Interval


class Point(NamedTuple):
    """A marker on a line, and the ends of the bar through it."""

    x: float
    y: float
    bar: tuple[float, float] | None = None


class Named(Protocol):
    """A line's name and look: a `Series`, or the line of a whole model's attention."""

    @property
    def label(self) -> str: ...
    @property
    def look(self) -> Look: ...


class Together(Protocol):
    """What one chart shows: a `Panel`, or the lines of a whole model's work."""

    @property
    def series(self) -> Sequence[Named]: ...


AnyPanel = TypeVar("AnyPanel", bound=Together)


def panel_chart(draw: Callable[[Axes, AnyPanel, Limits], None]) -> Callable[[AnyPanel, Limits], Figure]:
    """The function that makes a figure of one panel, from the function that draws the panel."""

    @house_style()
    def chart(panel: AnyPanel, limits: Limits) -> Figure:
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width, height + legend_inches(panel.series)), layout="constrained")
        draw(figure.subplots(), panel, limits)
        return figure

    return chart


def line_limits(panels: Iterable[Panel], value: Value, also: Iterable[float] = ()) -> Limits | None:
    """Limits around every point with a value and around `also`; None without a point."""
    points = [
        (axis_value(row, panel.key.along), height)
        for panel in panels
        for series in panel.series
        for row in series.rows
        if (height := value(row)) is not None
    ]
    x = padded((place for place, _ in points), least=2.0)
    y = padded([*(height for _, height in points), *(also if points else ())])
    return Limits(x, y) if x and y else None


def draw_axes(
    axes: Axes, panel: Panel, limits: Limits, y_word: str, y_ticks: list[tuple[float, str]]
) -> None:
    """The frame for the lines."""
    along = panel.key.along
    values = {axis_value(row, along) for series in panel.series for row in series.rows}
    dress(axes, x_word=AXES[along].words, y_word=y_word)
    log_axis(axes, "x", limits.x, value_ticks(values, limits.x))
    log_axis(axes, "y", limits.y, y_ticks)


def draw_lines(
    axes: Axes,
    panel: Panel,
    limits: Limits,
    value: Value,
    bounds: Callable[[Measurement], tuple[float, float]] | None = None,
) -> None:
    """A line for each series, with a bar from lower to upper bound at each point."""
    along = panel.key.along
    draw_points(
        axes,
        [
            (
                series,
                [
                    Point(axis_value(row, along), y, bounds(row) if bounds else None)
                    for row in series.rows
                    if (y := value(row)) is not None
                ],
            )
            for series in panel.series
        ],
    )


def draw_points(axes: Axes, lines: Sequence[tuple[Named, Sequence[Point]]]) -> None:
    """Each line through its points, their bars, and its name. A line without a point is left out."""
    ends = []
    for line, points in lines:
        if not points:
            continue
        plot_series(axes, line, [point.x for point in points], [point.y for point in points])
        bars = [(point.x, *point.bar) for point in points if point.bar]
        if bars:
            axes.vlines(*zip(*bars, strict=True), color=line.look.colour, linewidth=1.2)
        ends.append((line, points[-1].y))
    name_series(axes, ends)


def plot_series(axes: Axes, series: Named, xs: Sequence[float], ys: Sequence[float]) -> None:
    """Points and the line through them."""
    look = series.look
    axes.plot(
        xs,
        ys,
        label=series.label,
        color=look.colour,
        marker=look.marker,
        markersize=5.5,
        markerfacecolor=PAPER.light if look.hollow else look.colour,
        linestyle=look.dash,
        linewidth=1.6,
    )


def name_series(axes: Axes, ends: Sequence[tuple[Named, float]]) -> None:
    """Each line's name at the height of its end, or all names below the chart if they are too long."""
    if _are_below([series for series, _ in ends]):
        figure = axes.get_figure(root=True)
        assert figure is not None, "axes are made by a figure"
        # In points from the axes' corner: their height is unknown until the layout is done.
        below = ScaledTranslation(0, -BELOW_AXIS_POINTS / 72, figure.dpi_scale_trans)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=axes.transAxes + below,
            ncols=_columns([series for series, _ in ends]),
            borderaxespad=0,
            borderpad=0,
            columnspacing=1.2,
            frameon=False,
            fontsize=FONT_SIZE - 1,
            handlelength=2.6,
            labelcolor=INK.light,
        )
        return
    on_axes = axes.transScale + axes.transLimits
    places = [float(on_axes.transform((1.0, y))[1]) for _, y in ends]
    for (series, _), place in zip(ends, spread_out(places, NAME_GAP), strict=True):
        axes.text(
            1.02,
            place,
            series.label,
            color=series.look.colour,
            transform=axes.transAxes,
            verticalalignment="center_baseline",
        )


def legend_inches(series: Sequence[Named]) -> float:
    """Height of the names below a chart; 0 if they are beside it."""
    if not _are_below(series):
        return 0.0
    return LEGEND_LINE_INCHES * math.ceil(len(series) / _columns(series))


def _are_below(series: Sequence[Named]) -> bool:
    return len(series) > MOST_NAMES or any(len(one.label) > LONGEST_NAME for one in series)


def _columns(series: Sequence[Named]) -> int:
    return 2 if len(series) > 1 and all(len(one.label) <= LONGEST_IN_TWO for one in series) else 1


def share_of(value: float, limits: Interval) -> float:
    """A value's place on a logarithmic axis, from 0 to 1."""
    return math.log(value / limits[0]) / math.log(limits[1] / limits[0])
