"""The chart of --plot: time on the left, memory on the right, a row for each kind of problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from textwrap import fill
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashbench.analysis.group_words import problem_line
from flashbench.report.charts.latency import draw_latency, latency_limits
from flashbench.report.charts.lines import Named, legend_inches
from flashbench.report.charts.memory import draw_memory, memory_limits, workspace_bytes
from flashbench.report.charts.series import Panel, Source, make_panels
from flashbench.report.charts.style import FONT_SIZE, PANEL_INCHES, house_style
from flashbench.report.charts.throughput import draw_throughput, throughput_limits
from flashbench.report.charts.whole_models import PEAKS, STEPS, TOKENS, draw_model, model_limits, model_panels
from flashbench.report.colours import INK
from flashbench.results.record import Results

TITLE_INCHES = 0.35


class _Row(NamedTuple):
    """The drawings of one kind of problem, side by side."""

    words: str
    series: Sequence[Named]
    drawings: Sequence[Callable[[Axes], None]]


@house_style()
def overview_chart(results: Results) -> Figure | None:
    """Of attention latency beside memory, or beside throughput without memory; None if nothing was timed.

    Of whole models tokens a second, or the time of a step, beside the peak memory if that was measured.
    """
    rows = [*_of_attention(results), *_of_models(results)]
    if not rows:
        return None
    width, height = PANEL_INCHES
    columns = max(len(row.drawings) for row in rows)
    heights = [height + TITLE_INCHES + legend_inches(row.series) for row in rows]
    figure = Figure(figsize=(columns * width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        title = fill(f"{row.words}; {results.machine.cpu}", 45 * columns)
        part.suptitle(title, color=INK.light, fontsize=FONT_SIZE + 1)
        for place, draw in enumerate(row.drawings, start=1):
            draw(part.add_subplot(1, columns, place))
    return figure


def _of_attention(results: Results) -> Iterator[_Row]:
    panels = make_panels([Source("", results)])
    times, memory, rates = latency_limits(panels), memory_limits(panels), throughput_limits(panels)
    if times is None or rates is None:
        return
    for panel in panels:
        if memory is not None and _has_memory(panel):
            right = partial(draw_memory, panel=panel, limits=memory)
        else:
            right = partial(draw_throughput, panel=panel, limits=rates)
        left = partial(draw_latency, panel=panel, limits=times)
        yield _Row(problem_line(panel.key), panel.series, [left, right])


def _of_models(results: Results) -> Iterator[_Row]:
    panels = model_panels([Source("", results)])
    for panel in panels:
        found = [(quantity, model_limits(panel, panels, quantity)) for quantity in (TOKENS, STEPS, PEAKS)]
        drawings = [
            partial(draw_model, panel=panel, limits=limits, quantity=quantity)
            for quantity, limits in found
            if limits is not None
        ]
        if any(quantity is not PEAKS and limits is not None for quantity, limits in found):
            yield _Row(", ".join(panel.words), panel.series, drawings)


def _has_memory(panel: Panel) -> bool:
    return any(workspace_bytes(row) is not None for series in panel.series for row in series.rows)
