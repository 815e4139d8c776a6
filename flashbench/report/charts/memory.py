"""Memory: the peak workspace of a call over the length, beside guides that grow with N and N squared."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

from flashbench.report.charts.lines import (
    Limits,
    draw_axes,
    draw_lines,
    line_limits,
    panel_chart,
    share_of,
)
from flashbench.report.charts.series import Panel, axis_value
from flashbench.report.charts.style import FONT_SIZE
from flashbench.report.charts.ticks import byte_ticks
from flashbench.report.colours import MUTED
from flashbench.results.record import Measurement

# Guides begin above the first points, so that they hide none.
ABOVE = 1.7
HIGHEST = 0.9  # highest place on the axis for words above a guide
# Slope, words, and the offset of the words from the line in points: away from the other guide.
GUIDES = (
    (1, "\N{PROPORTIONAL TO} N", (4, -12)),
    (2, "\N{PROPORTIONAL TO} N\N{SUPERSCRIPT TWO}", (-30, 4)),
)


def memory_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits around the workspaces of all panels; None without any workspace."""
    return line_limits(panels, workspace_bytes)


def draw_memory(axes: Axes, panel: Panel, limits: Limits) -> None:
    draw_axes(axes, panel, limits, "peak workspace", byte_ticks(limits.y))
    if panel.key.along == "seqlen":  # the guides grow with N, which only this axis has
        _draw_guides(axes, panel, limits)
    draw_lines(axes, panel, limits, workspace_bytes)


memory_chart = panel_chart(draw_memory)


def workspace_bytes(row: Measurement) -> float | None:
    """Bytes that the call allocated. 0 counts as 1, which a logarithmic axis can show."""
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
        # The guide ends at the right edge or at the top of the chart.
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
            continue  # its words would overlap the chart's title
        axes.annotate(
            words,
            (middle, height),
            xytext=offset,
            textcoords="offset points",
            color=MUTED.light,
            fontsize=FONT_SIZE - 1,
        )
