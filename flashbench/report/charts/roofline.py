"""Roofline: GFLOP/s over operations per byte, below the measured peak and the measured bandwidth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashbench.report.charts.lines import (
    Limits,
    legend_inches,
    name_series,
    plot_series,
)
from flashbench.report.charts.peaks import Peak, draw_peak, name_peaks
from flashbench.report.charts.series import Panel
from flashbench.report.charts.style import MUTED, dress, house_style, log_axis, new_panel
from flashbench.report.charts.throughput import gflops
from flashbench.report.charts.ticks import number_ticks, padded
from flashbench.results.record import Measurement


class Roof(NamedTuple):
    """What one machine allows in one dtype (Williams, Waterman and Patterson 2009)."""

    peak_gflops: float
    bandwidth_gbps: float | None  # None: not measured, then only the ceiling is known

    def height(self, intensity: float) -> float:
        """The most GFLOP/s at so many operations per byte."""
        if self.bandwidth_gbps is None:
            return self.peak_gflops
        return min(self.peak_gflops, intensity * self.bandwidth_gbps)


def roofs(panel: Panel) -> list[Roof]:
    """The roof of each machine whose peak was measured."""
    found = {
        Roof(peak, series.machine.read_bandwidth_gbps)
        for series in panel.series
        if (peak := series.machine.peak_gflops.get(panel.key.problem.dtype))
    }
    return sorted(found, key=lambda roof: (roof.peak_gflops, roof.bandwidth_gbps or 0.0))


def intensity(row: Measurement) -> float:
    """Operations per byte of inputs and outputs, each moved once: what an ideal cache would leave."""
    problem, direction = row.problem, row.direction
    return problem.flops(direction) / (problem.input_bytes(direction) + problem.output_bytes(direction))


def roofline_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits that hold all points, the ceilings and where a ceiling meets its slope.

    None when there is no point or no peak.
    """
    panels = list(panels)
    every = [roof for panel in panels for roof in roofs(panel)]
    points = [point for panel in panels for series in panel.series for point in _points(series.rows)]
    if not every or not points:
        return None
    # A little to the left of the ridge, so that the slope is seen, and to its right, where the ceiling is.
    ridges = [roof.peak_gflops / roof.bandwidth_gbps for roof in every if roof.bandwidth_gbps]
    x = padded([*(x for x, _ in points), *(ridge * factor for ridge in ridges for factor in (1 / 3, 3))])
    y = padded([*(y for _, y in points), *(roof.peak_gflops for roof in every)])
    return Limits(x, y) if x and y else None


@house_style()
def roofline_chart(panel: Panel, limits: Limits) -> Figure:
    """One panel as a figure."""
    figure, axes = new_panel(legend_inches(panel.series))
    dress(axes, x_word="operations per byte of inputs and outputs", y_word="GFLOP/s")
    log_axis(axes, "x", limits.x, number_ticks(limits.x))
    log_axis(axes, "y", limits.y, number_ticks(limits.y))
    for roof in roofs(panel):
        _draw_roof(axes, roof, limits)
    ends = []
    for series in panel.series:
        points = _points(series.rows)
        if points:
            xs, ys = zip(*points, strict=True)
            plot_series(axes, series, xs, ys)
            ends.append((series, ys[-1]))
    name_series(axes, limits, ends)
    # At the right end: at the left a roof slopes.
    name_peaks(axes, limits, [Peak(roof.peak_gflops, _remark(roof)) for roof in roofs(panel)], "right")
    return figure


def _points(rows: Iterable[Measurement]) -> list[tuple[float, float]]:
    return [(intensity(row), rate) for row in rows if (rate := gflops(row)) is not None]


def _draw_roof(axes: Axes, roof: Roof, limits: Limits) -> None:
    if roof.bandwidth_gbps is None:
        draw_peak(axes, roof.peak_gflops)
        return
    ridge = roof.peak_gflops / roof.bandwidth_gbps
    xs = [limits.x[0], *([ridge] if limits.x[0] < ridge < limits.x[1] else []), limits.x[1]]
    axes.plot(xs, list(map(roof.height, xs)), label="_roof", color=MUTED.light, linewidth=1.3)


def _remark(roof: Roof) -> str:
    return ", no bandwidth" if roof.bandwidth_gbps is None else f", {roof.bandwidth_gbps:.1f} GB/s"
