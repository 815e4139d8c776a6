"""Roofline: GFLOP/s over operations per byte, below the measured peak and the measured bandwidth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from matplotlib.axes import Axes

from flashbench.report.charts.lines import (
    Limits,
    name_series,
    panel_chart,
    plot_series,
)
from flashbench.report.charts.peaks import Peak, draw_peak, name_peaks
from flashbench.report.charts.series import Panel
from flashbench.report.charts.style import dress, log_axis
from flashbench.report.charts.throughput import gflops
from flashbench.report.charts.ticks import number_ticks, padded
from flashbench.report.colours import MUTED
from flashbench.results.peaks import peak_of
from flashbench.results.record import Measurement


class Roof(NamedTuple):
    """The limit of one machine by one path (Williams, Waterman and Patterson 2009)."""

    peak_gflops: float
    bandwidth_gbps: float | None  # None: not measured, so the roof is only a ceiling

    def height(self, intensity: float) -> float:
        """The most GFLOP/s at this number of operations per byte."""
        if self.bandwidth_gbps is None:
            return self.peak_gflops
        return min(self.peak_gflops, intensity * self.bandwidth_gbps)


def roofs(panel: Panel) -> list[Roof]:
    """The roof of each machine and path with a measured peak."""
    found = {
        Roof(peak, series.machine.read_bandwidth_gbps)
        for series in panel.series
        for row in series.rows
        if (peak := peak_of(series.machine, row))
    }
    return sorted(found, key=lambda roof: (roof.peak_gflops, roof.bandwidth_gbps or 0.0))


def intensity(row: Measurement) -> float:
    """Operations per byte of inputs and outputs, each moved once as with an ideal cache."""
    problem, direction = row.problem, row.direction
    return problem.flops(direction) / (problem.input_bytes(direction) + problem.output_bytes(direction))


def roofline_limits(panels: Iterable[Panel]) -> Limits | None:
    """Limits around all points, the ceilings, and the ridges where a ceiling meets its slope.

    None without a point or without a peak.
    """
    panels = list(panels)
    every = [roof for panel in panels for roof in roofs(panel)]
    points = [point for panel in panels for series in panel.series for point in _points(series.rows)]
    if not every or not points:
        return None
    # Some room to the left of the ridge for the slope, and to its right for the ceiling.
    ridges = [roof.peak_gflops / roof.bandwidth_gbps for roof in every if roof.bandwidth_gbps]
    x = padded([*(x for x, _ in points), *(ridge * factor for ridge in ridges for factor in (1 / 3, 3))])
    y = padded([*(y for _, y in points), *(roof.peak_gflops for roof in every)])
    return Limits(x, y) if x and y else None


def draw_roofline(axes: Axes, panel: Panel, limits: Limits) -> None:
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
    name_series(axes, ends)
    # At the right end: the left end of a roof is its slope.
    name_peaks(axes, limits, [Peak(roof.peak_gflops, _remark(roof)) for roof in roofs(panel)], "right")


roofline_chart = panel_chart(draw_roofline)


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
