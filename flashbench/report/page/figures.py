"""The charts of a page: a section for each kind of chart, in it a chart for each kind of problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from flashbench.analysis.blocks import block_labels, block_rows
from flashbench.analysis.group_words import axis_word, problem_line
from flashbench.analysis.groups import Along, GroupKey
from flashbench.analysis.problem_words import length_word
from flashbench.analysis.words import counted
from flashbench.report.charts.heatmap import cell_words, heatmap_chart
from flashbench.report.charts.latency import latency_chart, latency_limits, milliseconds
from flashbench.report.charts.lines import Limits, Value
from flashbench.report.charts.memory import memory_chart, memory_limits, workspace_bytes
from flashbench.report.charts.roofline import roofline_chart, roofline_limits, roofs
from flashbench.report.charts.scaling import curve, scaling_chart, scaling_panels
from flashbench.report.charts.series import Panel, Series, Source
from flashbench.report.charts.style import chart_bytes
from flashbench.report.charts.throughput import gflops, throughput_chart, throughput_limits
from flashbench.report.page.inline import inline_svg
from flashbench.report.page.table import Table
from flashbench.report.page.words import capital, caption_words, common_words
from flashbench.report.units import format_bytes


class Chart(NamedTuple):
    """One drawing and its caption; its figures are in the table with that id."""

    caption: str
    table_id: str
    svg: Markup


class Section(NamedTuple):
    """All charts of one kind. Without charts `words` say why."""

    id: str
    title: str
    words: str
    charts: list[Chart]


class _Kind(NamedTuple):
    """The differences between the four charts over an axis."""

    id: str
    title: str
    words: str
    absent: str
    limits: Callable[[Sequence[Panel]], Limits | None]
    draw: Callable[[Panel, Limits], Figure]
    value: Value
    written: Callable[[float], str]


_LATENCY = _Kind(
    "latency",
    "Latency",
    "The median time of a call, both axes logarithmic; a bar from the lower to the upper quartile where "
    "it reaches beyond its marker.",
    "No time was measured.",
    latency_limits,
    latency_chart,
    milliseconds,
    lambda value: f"{value:.3g} ms",
)
_THROUGHPUT = _Kind(
    "throughput",
    "Throughput",
    "Operations of the pairs that the mask lets through, divided by the median time. The line above is the "
    "multiply-add peak measured in the same run.",
    "No time was measured.",
    throughput_limits,
    throughput_chart,
    gflops,
    lambda value: f"{value:.3g} GFLOP/s",
)
_MEMORY = _Kind(
    "memory",
    "Memory",
    "The peak of what a call allocated beyond its inputs and outputs. The dotted guides grow with N and with "
    "N squared.",
    "No memory was measured.",
    memory_limits,
    memory_chart,
    workspace_bytes,
    lambda value: format_bytes(int(value)),
)
_ROOFLINE = _Kind(
    "roofline",
    "Roofline",
    "Throughput over operations per byte, inputs and outputs moved once, below what the machine allows: the "
    "measured peak and, to its left, the measured read bandwidth.",
    "No peak was measured, so there is no roof.",
    roofline_limits,
    roofline_chart,
    gflops,
    lambda value: f"{value:.3g} GFLOP/s",
)
_SCALING_WORDS = (
    "Speed-up over the fewest threads, both axes logarithmic. On the dotted line each thread adds its full "
    "share."
)
_BACKWARD = (
    "Backward operations count recomputation, so an engine that kept its probabilities may pass the peak."
)


def chart_sections(
    sources: Sequence[Source], panels: Sequence[Panel], tables: Mapping[GroupKey, Table]
) -> list[Section]:
    """Latency, throughput, scaling, memory, block sizes and roofline; nothing without measurements."""
    if not panels:
        return []
    names = caption_words([panel.key for panel in panels])
    kinds = [_section(kind, panels, names, tables) for kind in (_LATENCY, _THROUGHPUT, _MEMORY, _ROOFLINE)]
    latency, throughput, memory, roofline = kinds
    if throughput.charts and any(panel.key.direction != "fwd" for panel in panels):
        throughput = throughput._replace(words=f"{throughput.words} {_BACKWARD}")
    if roofline.charts and any(roof.bandwidth_gbps is None for panel in panels for roof in roofs(panel)):
        roofline = roofline._replace(
            words=f"{roofline.words} Where the bandwidth was not measured, only the ceiling is drawn."
        )
    sections = [
        latency,
        throughput,
        *_scaling(scaling_panels(sources), names, tables),
        memory,
        *_heatmaps(panels, names, tables),
        roofline,
    ]
    common = common_words([panel.key for panel in panels])
    return [
        section._replace(words=f"{section.words} {common}") if common and section.charts else section
        for section in sections
    ]


def _section(
    kind: _Kind, panels: Sequence[Panel], names: Mapping[GroupKey, str], tables: Mapping[GroupKey, Table]
) -> Section:
    limits = kind.limits(panels)
    if limits is None:
        return Section(kind.id, kind.title, kind.absent, [])
    charts = []
    for number, panel in enumerate(panels, start=1):
        points = [(series, _points(series, kind.value, panel.key.along)) for series in panel.series]
        if not any(values for _, values in points):
            continue
        said = [points_sentence(series.label, values, kind.written) for series, values in points if values]
        svg = inline_svg(
            chart_bytes(kind.draw(panel, limits), "svg"),
            prefix=f"{kind.id}-{number}",
            label=f"{kind.title}: {problem_line(panel.key)}",
            description=" ".join([kind.words, *said]),
        )
        charts.append(Chart(names[panel.key], tables[panel.key].id, svg))
    return Section(kind.id, kind.title, kind.words, charts)


def _scaling(
    panels: Sequence[Panel], names: Mapping[GroupKey, str], tables: Mapping[GroupKey, Table]
) -> Iterator[Section]:
    charts = []
    for number, panel in enumerate(panels, start=1):
        said = [
            f"{series.label}: "
            + ", ".join(f"{ratio:.2f} with {counted(threads, 'thread')}" for threads, ratio in curve(series))
            + "."
            for series in panel.series
        ]
        svg = inline_svg(
            chart_bytes(scaling_chart(panel), "svg"),
            prefix=f"scaling-{number}",
            label=f"Scaling: {problem_line(panel.key)}",
            description=" ".join([_SCALING_WORDS, *said]),
        )
        charts.append(Chart(names[panel.key], tables[panel.key].id, svg))
    if charts:
        yield Section("scaling", "Scaling", _SCALING_WORDS, charts)


def _heatmaps(
    panels: Sequence[Panel], names: Mapping[GroupKey, str], tables: Mapping[GroupKey, Table]
) -> Iterator[Section]:
    charts: list[Chart] = []
    for panel in panels:
        for series in panel.series:
            if not series.sweep:
                continue
            svg = inline_svg(
                chart_bytes(heatmap_chart(series), "svg"),
                prefix=f"blocks-{len(charts) + 1}",
                label=f"Block sizes of {series.name}: {problem_line(panel.key)}",
                description=_heatmap_words(series),
            )
            caption = capital(f"{series.name}, {names[panel.key].lower()}")
            charts.append(Chart(caption, tables[panel.key].id, svg))
    if charts:
        words = (
            "Each time over the fastest of its length, which is framed; ~ this run cannot tell it from the "
            "fastest. Under auto: the sizes that the engine chose."
        )
        yield Section("blocks", "Block sizes", words, charts)


def _points(series: Series, value: Value, along: Along) -> list[tuple[str, float]]:
    found = ((row, value(row)) for row in series.rows)
    return [(axis_word(row.problem, along), y) for row, y in found if y is not None]


def points_sentence(label: str, points: Sequence[tuple[str, float]], written: Callable[[float], str]) -> str:
    """The points of a line in words, each as (place, value): `flash: 1.2 ms at 512, 4.7 ms at 1024.`"""
    return f"{label}: {', '.join(f'{written(value)} at {place}' for place, value in points)}."


def _heatmap_words(series: Series) -> str:
    labels = block_labels(series.sweep)
    return " ".join(
        f"N {length_word(row.problem)}: "
        + ", ".join(f"{label} {cell_words(row, label)}" for label in labels)
        + "."
        for row in block_rows(series.sweep)
    )
