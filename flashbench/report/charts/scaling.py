"""Scaling: speed-up over the number of threads, a line for each engine and place along the table."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from flashbench.analysis.blocks import AUTO, block_label, with_block
from flashbench.analysis.group_words import axis_word
from flashbench.analysis.groups import GroupKey, group_key, grouped, table_axis
from flashbench.analysis.paths import engine_with_path
from flashbench.analysis.scaling import alike, bases, speed_up
from flashbench.report.charts.lines import legend_inches, name_series, plot_series
from flashbench.report.charts.series import Panel, Series, Source, shortened
from flashbench.report.charts.style import PANEL_INCHES, dress, engine_looks, house_style, log_axis, nth_dash
from flashbench.report.charts.ticks import padded, value_ticks
from flashbench.report.colours import MUTED
from flashbench.report.layout import AXES
from flashbench.results.record import Measurement


def scaling_panels(sources: Sequence[Source]) -> list[Panel]:
    """The kinds of problem with scaling curves. Each series is one curve, its rows by number of threads."""
    every = [row for source in sources for row in source.results.measurements]
    along, looks = table_axis(every), engine_looks(row.engine for row in every)
    panels: dict[GroupKey, list[Series]] = {}
    for source in sources:
        base = bases(source.results.measurements)
        for key, rows in grouped(source.results.measurements, alike).items():
            timed = sorted((row for row in rows if speed_up(row, base.get(key))), key=_threads)
            if len(timed) > 1:
                group = group_key(timed[0], along)
                panel = panels.setdefault(group, [])
                label = _label(timed[0], group, source.name if len(sources) > 1 else "")
                look = looks[timed[0].engine]
                look = look._replace(dash=nth_dash(sum(one.look.colour == look.colour for one in panel)))
                panel.append(Series(label, label, look, source.results.machine, timed, []))
    return [Panel(*panel) for panel in panels.items()]


def curve(series: Series) -> list[tuple[int, float]]:
    """(threads, speed-up) of each point."""
    ratios = ((row, speed_up(row, series.rows[0])) for row in series.rows)
    return [(_threads(row), ratio) for row, ratio in ratios if ratio is not None]


@house_style()
def scaling_chart(panel: Panel) -> Figure:
    """The curves of a panel, and a line along which each thread adds its full share."""
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height + legend_inches(panel.series)), layout="constrained")
    axes = figure.subplots()
    curves = [curve(series) for series in panel.series]
    counts = {threads for points in curves for threads, _ in points}
    ideal = max(counts) / min(counts)
    x = padded(counts, least=2.0)
    y = padded([1.0, ideal, *(ratio for points in curves for _, ratio in points)], least=2.0)
    assert x is not None, "a curve has two points or more"
    assert y is not None, "as its speed-ups"
    dress(axes, x_word="threads", y_word="speed-up")
    log_axis(axes, "x", x, value_ticks(counts, x))
    log_axis(axes, "y", y, value_ticks([round(count / min(counts)) for count in counts], y))
    ends = [min(counts), max(counts)]
    axes.plot(ends, [1.0, ideal], label="_ideal", color=MUTED.light, linewidth=1.2, linestyle=(0, (1, 2)))
    for series, points in zip(panel.series, curves, strict=True):
        plot_series(axes, series, *zip(*points, strict=True))
    name_series(axes, [(series, points[-1][1]) for series, points in zip(panel.series, curves, strict=True)])
    return figure


def _label(row: Measurement, key: GroupKey, file: str) -> str:
    name = f"{engine_with_path(row)}, {AXES[key.along].heading} {axis_word(row.problem, key.along)}"
    if row.blocks_asked not in (None, AUTO):
        name = with_block(name, block_label(row))
    return shortened(f"{name} \N{MIDDLE DOT} {file}" if file else name)


def _threads(row: Measurement) -> int:
    return row.threads or 0
