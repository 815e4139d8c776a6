"""Throughput: GFLOP/s over the length, below the peak measured in the same run."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

from flashbench.report.charts.lines import (
    Limits,
    draw_axes,
    draw_lines,
    line_limits,
    panel_chart,
)
from flashbench.report.charts.peaks import Peak, draw_peak, name_peaks
from flashbench.report.charts.series import Panel, measured_peaks
from flashbench.report.charts.ticks import number_ticks
from flashbench.results.record import Measurement


def throughput_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits around the rates of all panels and their peaks; None without any rate."""
    panels = list(panels)
    return line_limits(panels, gflops, [peak for panel in panels for peak in measured_peaks(panel)])


def draw_throughput(axes: Axes, panel: Panel, limits: Limits) -> None:
    draw_axes(axes, panel, limits, "GFLOP/s", number_ticks(limits.y))
    peaks = [Peak(rate) for rate in measured_peaks(panel)]
    for peak in peaks:
        draw_peak(axes, peak.gflops)
    draw_lines(axes, panel, limits, gflops)
    name_peaks(axes, limits, peaks, "left")


throughput_chart = panel_chart(draw_throughput)


def gflops(row: Measurement) -> float | None:
    """The rate; None without a right result."""
    return row.rates.gflops if row.rates and row.status == "ok" else None
