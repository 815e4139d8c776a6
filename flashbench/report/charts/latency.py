"""Latency: the median time of a call over the length, with its quartiles."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

from flashbench.report.charts.lines import Limits, draw_axes, draw_lines, line_limits, panel_chart
from flashbench.report.charts.series import Panel
from flashbench.report.charts.ticks import number_ticks
from flashbench.results.record import Measurement


def latency_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits around the times of all panels and their quartiles; None without any time."""
    panels = list(panels)
    rows = [row for panel in panels for series in panel.series for row in series.rows]
    timed = [row for row in rows if milliseconds(row) is not None]
    return line_limits(panels, milliseconds, [bound for row in timed for bound in _quartiles(row)])


def draw_latency(axes: Axes, panel: Panel, limits: Limits) -> None:
    draw_axes(axes, panel, limits, "time of a call, ms", number_ticks(limits.y))
    draw_lines(axes, panel, limits, milliseconds, _quartiles)


latency_chart = panel_chart(draw_latency)


def milliseconds(row: Measurement) -> float | None:
    """The median time; None without a right result."""
    return row.time.median_ns / 1e6 if row.time and row.status == "ok" else None


def _quartiles(row: Measurement) -> tuple[float, float]:
    assert row.time is not None, "only a row with a time has a point"
    return row.time.low_ns / 1e6, row.time.high_ns / 1e6
