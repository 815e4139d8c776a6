"""Memory: the peak workspace of a call over the length, beside what grows with N and with N squared."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashbench.report.charts.lines import (
    Limits,
    draw_axes,
    draw_lines,
    legend_inches,
    line_limits,
    share_of,
)
from flashbench.report.charts.series import Panel, axis_value
from flashbench.report.charts.style import FONT_SIZE, MUTED, house_style, new_panel
from flashbench.report.charts.ticks import byte_ticks
from flashbench.results.record import Measurement

# Guides begin above the first of the points, for a line that lies on one would hide it.
ABOVE = 1.7
HIGHEST = 0.9  # of the axes, for words above a guide
# slope, its words, and where they stand from the line in points: each on the side away from the other
GUIDES = (
    (1, "\N{PROPORTIONAL TO} N", (4, -12)),
    (2, "\N{PROPORTIONAL TO} N\N{SUPERSCRIPT TWO}", (-30, 4)),
)


def memory_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits that hold the workspaces of all panels; None when none was measured."""
    return line_limits(panels, workspace_bytes)


@house_style()
def memory_chart(panel: Panel, limits: Limits) -> Figure:
    """One panel as a figure."""
    figure, axes = new_panel(legend_inches(panel.series))
    draw_memory(axes, panel, limits)
    return figure


def draw_memory(axes: Axes, panel: Panel, limits: Limits) -> None:
    draw_axes(axes, panel, limits, "peak workspace", byte_ticks(limits.y))
    if panel.key.along == "seqlen":  # over head sizes or keys there is no N to grow with
        _draw_guides(axes, panel, limits)
    draw_lines(axes, panel, limits, workspace_bytes)


def workspace_bytes(row: Measurement) -> float | None:
    """What the call allocated; none at all counts as one byte, which a logarithmic axis can show."""
    return None if row.memory is None else float(max(1, row.memory.workspace_peak_bytes))


def _draw_guides(axes: Axes, panel: Panel, limits: Limits) -> None:
    points = [
        (axis_value(row, panel.key.along), y)
        for series in panel.series
        for row in series.rows
        if (y := workspace_bytes(row)) is not None
    ]
    first = min(x for x, _ in points)
    start = ABOVE * max(y for x, y in points if x == first)
    for slope, words, offset in GUIDES:
        # To where it leaves the chart, through the right edge or through the top.
        end = min(limits.x[1], first * (limits.y[1] / start) ** (1 / slope))
        if end <= first:
            continue
        xs = [float(first), end]
        axes.plot(
            xs,
            [start * (x / first) ** slope for x in xs],
            label=f"_{words}",
            color=MUTED.light,
            linewidth=1.2,
            linestyle=(0, (1, 2)),
        )
        middle = (first * end**2) ** (1 / 3)
        height = start * (middle / first) ** slope
        if offset[1] > 0 and share_of(height, limits.y) > HIGHEST:
            continue  # its words would stand in the chart's title
        axes.annotate(
            words,
            (middle, height),
            xytext=offset,
            textcoords="offset points",
            color=MUTED.light,
            fontsize=FONT_SIZE - 1,
        )
