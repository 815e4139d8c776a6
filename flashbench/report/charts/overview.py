"""The chart of a profile: time on the left, memory on the right, a row for each kind of problem."""

from __future__ import annotations

from textwrap import fill

from matplotlib.figure import Figure

from flashbench.analysis.group_words import problem_line
from flashbench.report.charts.latency import draw_latency, latency_limits
from flashbench.report.charts.lines import legend_inches
from flashbench.report.charts.memory import draw_memory, memory_limits, workspace_bytes
from flashbench.report.charts.series import Panel, Source, make_panels
from flashbench.report.charts.style import FONT_SIZE, PANEL_INCHES, house_style
from flashbench.report.charts.throughput import draw_throughput, throughput_limits
from flashbench.report.colours import INK
from flashbench.results.record import Results

TITLE_INCHES = 0.35


@house_style()
def overview_chart(results: Results) -> Figure | None:
    """Latency beside memory, or beside throughput without memory; None if nothing was timed."""
    panels = make_panels([Source("", results)])
    times, memory, rates = latency_limits(panels), memory_limits(panels), throughput_limits(panels)
    if times is None or rates is None:
        return None
    width, height = PANEL_INCHES
    heights = [height + TITLE_INCHES + legend_inches(panel.series) for panel in panels]
    figure = Figure(figsize=(2 * width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, part in zip(panels, parts, strict=True):
        left, right = part.subplots(1, 2)
        part.suptitle(fill(_title(panel, results), 90), color=INK.light, fontsize=FONT_SIZE + 1)
        draw_latency(left, panel, times)
        if memory is not None and _has_memory(panel):
            draw_memory(right, panel, memory)
        else:
            draw_throughput(right, panel, rates)
    return figure


def _title(panel: Panel, results: Results) -> str:
    return f"{problem_line(panel.key)}; {results.machine.cpu}"


def _has_memory(panel: Panel) -> bool:
    return any(workspace_bytes(row) is not None for series in panel.series for row in series.rows)
