"""Throughput: GFLOP/s over the length, below the peak measured in the same run."""

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
)
from flashbench.report.charts.peaks import Peak, draw_peak, name_peaks
from flashbench.report.charts.series import Panel, measured_peaks
from flashbench.report.charts.style import house_style, new_panel
from flashbench.report.charts.ticks import number_ticks
from flashbench.results.record import Measurement


def throughput_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits that hold the rates of all panels and their peaks; None when none was measured."""
    panels = list(panels)
    return line_limits(panels, gflops, [peak for panel in panels for peak in measured_peaks(panel)])


@house_style()
def throughput_chart(panel: Panel, limits: Limits) -> Figure:
    """One panel as a figure."""
    figure, axes = new_panel(legend_inches(panel.series))
    draw_throughput(axes, panel, limits)
    return figure


def draw_throughput(axes: Axes, panel: Panel, limits: Limits) -> None:
    draw_axes(axes, panel, limits, "GFLOP/s", number_ticks(limits.y))
    peaks = [Peak(rate) for rate in measured_peaks(panel)]
    for peak in peaks:
        draw_peak(axes, peak.gflops)
    draw_lines(axes, panel, limits, gflops)
    name_peaks(axes, limits, peaks, "left")


def gflops(row: Measurement) -> float | None:
    """The rate, of a right result."""
    return row.rates.gflops if row.rates and row.status == "ok" else None
