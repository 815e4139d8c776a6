"""Whole models: tokens a second over the depth, steps over the context length, the peak memory of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashbench.analysis.groups import Along
from flashbench.analysis.inference import tokens_per_second
from flashbench.analysis.whole_models import (
    ModelRow,
    along_of,
    model_rows,
    place_of,
    work_key,
    work_words,
)
from flashbench.report.charts.lines import Limits, Point, draw_points, panel_chart
from flashbench.report.charts.series import Source, file_marks, shortened
from flashbench.report.charts.style import Look, dress, engine_looks, linear_axis, log_axis
from flashbench.report.charts.ticks import (
    Interval,
    byte_ticks,
    even_ticks,
    from_zero,
    number_ticks,
    padded,
    value_ticks,
)
from flashbench.report.layout import AXES
from flashbench.results.record import InferenceTest, TrainingStep

# Named although a file may lack some, so that each always looks the same.
_NOT_ENGINES = ("eager", "original", "sdpa")
BEFORE_ZERO = 0.04  # room beside a marker at depth 0, as a share of the largest depth


class ModelLine(NamedTuple):
    """One attention of one file."""

    label: str
    look: Look
    rows: list[ModelRow]  # by place


class ModelPanel(NamedTuple):
    """The same work of one model, with every attention."""

    key: tuple[object, ...]  # `work_key`
    words: tuple[str, ...]
    along: Along
    series: list[ModelLine]


class Quantity(NamedTuple):
    """What is drawn over the depth or the context length."""

    y_word: str
    point: Callable[[ModelRow], Point | None]
    ticks: Callable[[Interval], list[tuple[float, str]]]
    linear: bool = False  # from 0, and each panel for itself: models differ too much to share such an axis


def model_panels(sources: Sequence[Source]) -> list[ModelPanel]:
    """Every row of whole models, in the order measured; a line for each attention and file."""
    named = [(number, row) for number, source in enumerate(sources) for row in model_rows(source.results)]
    looks = engine_looks([*_NOT_ENGINES, *(row.attention for _, row in named)])
    panels: dict[tuple[object, ...], ModelPanel] = {}
    lines: dict[tuple[object, ...], ModelLine] = {}
    for number, row in named:
        key = work_key(row)
        panel = panels.setdefault(key, ModelPanel(key, work_words(row), along_of(row), []))
        if (key, number, row.attention) not in lines:
            file, look = file_marks(sources, number, looks[row.attention])
            line = ModelLine(shortened(row.attention + file), look, [])
            lines[key, number, row.attention] = line
            panel.series.append(line)
        lines[key, number, row.attention].rows.append(row)
    for line in lines.values():
        line.rows.sort(key=place_of)
    return list(panels.values())


def _tokens(row: ModelRow) -> Point | None:
    if not isinstance(row, InferenceTest) or row.status != "ok":
        return None
    rate = tokens_per_second(row)
    return None if rate is None else Point(row.depth, rate.median, (rate.low, rate.high))


def _step(row: ModelRow) -> Point | None:
    if not isinstance(row, TrainingStep) or row.time is None or row.status != "ok":
        return None
    quartiles = row.time.low_ns / 1e6, row.time.high_ns / 1e6
    return Point(row.context_length, row.time.median_ns / 1e6, quartiles)


def _peak(row: ModelRow) -> Point | None:
    """0 bytes count as 1, which a logarithmic axis can show."""
    if row.peak_bytes is None or row.status != "ok":
        return None
    return Point(place_of(row), float(max(1, row.peak_bytes)))


TOKENS = Quantity("tokens/s", _tokens, even_ticks, linear=True)
STEPS = Quantity("time of a step, ms", _step, number_ticks)
PEAKS = Quantity("peak memory", _peak, byte_ticks)


def line_points(line: ModelLine, quantity: Quantity) -> list[Point]:
    """The points of the rows that have it and a right result."""
    return [point for row in line.rows if (point := quantity.point(row)) is not None]


def model_limits(panel: ModelPanel, panels: Sequence[ModelPanel], quantity: Quantity) -> Limits | None:
    """Limits of a panel's axes: shared by the panels over the same axis, but for a linear quantity.

    None if this panel has no point.
    """
    if not any(line_points(line, quantity) for line in panel.series):
        return None
    alike = [panel] if quantity.linear else [each for each in panels if each.along == panel.along]
    points = [point for each in alike for line in each.series for point in line_points(line, quantity)]
    xs = [point.x for point in points]
    ys = [y for point in points for y in (point.y, *(point.bar or ()))]
    x = from_zero(xs, before=BEFORE_ZERO) if panel.along == "depth" else padded(xs, least=2.0)
    y = from_zero(ys) if quantity.linear else padded(ys)
    return Limits(x, y) if x and y else None


def draw_model(axes: Axes, panel: ModelPanel, limits: Limits, quantity: Quantity) -> None:
    """A line for each attention, with a bar at each point that has an interval."""
    dress(axes, x_word=AXES[panel.along].words, y_word=quantity.y_word)
    over_depth = panel.along == "depth"  # which begins at 0
    places = {place_of(row) for line in panel.series for row in line.rows}
    x_axis, y_axis = (linear_axis if linear else log_axis for linear in (over_depth, quantity.linear))
    x_axis(axes, "x", limits.x, value_ticks(places, limits.x, linear=over_depth))
    y_axis(axes, "y", limits.y, quantity.ticks(limits.y))
    draw_points(axes, [(line, line_points(line, quantity)) for line in panel.series])


def model_chart(panel: ModelPanel, limits: Limits, quantity: Quantity) -> Figure:
    """A panel by itself."""
    return panel_chart(partial(draw_model, quantity=quantity))(panel, limits)
