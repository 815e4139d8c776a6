"""The charts of whole models: tokens a second, training steps, and memory, a chart for each work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from flashbench.analysis.whole_models import model_rows
from flashbench.report.charts.series import Source
from flashbench.report.charts.style import chart_bytes
from flashbench.report.charts.whole_models import (
    PEAKS,
    STEPS,
    TOKENS,
    ModelPanel,
    Quantity,
    line_points,
    model_chart,
    model_limits,
)
from flashbench.report.infer import confidence_words
from flashbench.report.page.figures import Chart, Section, points_sentence
from flashbench.report.page.inline import inline_svg
from flashbench.report.page.table import Table
from flashbench.report.page.words import distinct_words, shared_words
from flashbench.report.units import format_bytes, format_rate
from flashbench.results.record import InferenceTest


class _Kind(NamedTuple):
    """The differences between the sections."""

    id: str
    title: str
    words: str
    quantity: Quantity
    written: Callable[[float], str]


def model_sections(
    sources: Sequence[Source], panels: Sequence[ModelPanel], tables: Mapping[tuple[object, ...], Table]
) -> Iterator[Section]:
    """A section for each quantity that any of the panels has."""
    common = shared_words([panel.words for panel in panels])
    for kind in _kinds(sources):
        charts = list(_charts(kind, panels, tables))
        if charts:
            yield Section(kind.id, kind.title, f"{kind.words} {common}".rstrip(), charts)


def _charts(
    kind: _Kind, panels: Sequence[ModelPanel], tables: Mapping[tuple[object, ...], Table]
) -> Iterator[Chart]:
    names = distinct_words({panel.key: panel.words for panel in panels})
    for number, panel in enumerate(panels, start=1):
        limits = model_limits(panel, panels, kind.quantity)
        if limits is None:
            continue
        points = [(line.label, line_points(line, kind.quantity)) for line in panel.series]
        said = [
            points_sentence(label, [(f"{point.x:.0f}", point.y) for point in own], kind.written)
            for label, own in points
            if own
        ]
        svg = inline_svg(
            chart_bytes(model_chart(panel, limits, kind.quantity), "svg"),
            prefix=f"{kind.id}-{number}",
            label=f"{kind.title}: {', '.join(panel.words)}",
            description=" ".join([kind.words, *said]),
        )
        yield Chart(names[panel.key], tables[panel.key].id, svg)


def _kinds(sources: Sequence[Source]) -> list[_Kind]:
    rows = [row for source in sources for row in model_rows(source.results)]
    tests = [row for row in rows if isinstance(row, InferenceTest)]
    peaks = [
        "of a test beyond the weights and the cache before" if tests else "",
        "of a step beyond the model, its inputs and its gradients" if len(tests) < len(rows) else "",
    ]
    return [
        _Kind(
            "tokens",
            "Tokens a second",
            "Of all sequences together, over the tokens in the cache before. Each chart has a scale of its "
            f"own, from 0. A bar is an interval of the median over processes, {confidence_words(tests)}.",
            TOKENS,
            lambda value: f"{format_rate(value)} tokens/s",
        ),
        _Kind(
            "steps",
            "Training steps",
            "The median time of a whole step, both axes logarithmic; a bar from the lower to the upper "
            "quartile where it reaches beyond its marker.",
            STEPS,
            lambda value: f"{value:.4g} ms",
        ),
        _Kind(
            "models-memory",
            "Memory of whole models",
            f"The peak {' or '.join(filter(None, peaks))}; its axis is logarithmic.",
            PEAKS,
            lambda value: format_bytes(int(value)),
        ),
    ]
