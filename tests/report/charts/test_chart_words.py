"""No two words of a chart overlap, and the names of peaks overlap nothing that is drawn."""

from __future__ import annotations

import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.feature_rows import decode_rows
from helpers.report_files import ENGINES, FULL_MACHINE, make_profile, sources
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from msgspec.structs import replace
from test_charts import CHARTS

from flashbench.report.charts.series import make_panels
from flashbench.results.record import Results


def machine(peak: float, bandwidth: float | None) -> dict[str, object]:
    peaks = {"float64": peak, "float32": 2 * peak}
    return {"machine": replace(FULL_MACHINE, peak_gflops=peaks, read_bandwidth_gbps=bandwidth)}


def lengths(*numbers: int, slower: float = 1.0) -> Results:
    rows = [make_measurement(engine, n, slower=slower) for n in numbers for engine in ENGINES]
    return make_results(rows, machine=FULL_MACHINE)


FILES: dict[str, list[Results]] = {
    "a profile": [make_profile()],
    "three machines": [
        make_profile(),
        replace(make_profile(), **machine(131.0, 30.0)),
        replace(make_profile(), **machine(95.0, 11.0)),
    ],
    "machines far apart": [
        make_profile(),
        replace(make_profile(), **machine(1800.0, 200.0)),
        replace(make_profile(), **machine(40.0, None)),
    ],
    "above the peak": [lengths(128, 1024, 4096, slower=0.75)],
    "near the peak": [lengths(512, 1024, slower=0.81), replace(lengths(64), **machine(130.0, None))],
    "decoding alone": [make_results(decode_rows("flash", "torch-flash"), machine=FULL_MACHINE)],
    "lengths close together": [lengths(1024, 1100, 1200)],
    "lengths of seven figures": [lengths(16, 128, 1024, 16384, 131072, 1048576)],
    "one length": [lengths(1024)],
}


def drawn(chart: str, files: list[Results]) -> list[Axes]:
    limits_of, make = CHARTS[chart]
    panels = make_panels(sources(*files))
    limits = limits_of(panels)
    assert limits is not None
    figures = [make(panel, limits) for panel in panels]
    for figure in figures:
        FigureCanvasAgg(figure).draw()
    return [axes for figure in figures for axes in figure.axes]


def boxes(axes: Axes) -> list[tuple[str, Bbox]]:
    figure = axes.get_figure(root=True)
    assert figure is not None
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible()]


def cover(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes overlap by more than a pixel across and two up, which is the empty rim of letters."""
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("files", FILES)
def test_no_word_lies_over_another(chart: str, files: str) -> None:
    for axes in drawn(chart, FILES[files]):
        words = boxes(axes)
        over = [
            (a, b) for at, (a, first) in enumerate(words) for b, then in words[at + 1 :] if cover(first, then)
        ]
        assert over == []


@pytest.mark.parametrize("chart", ["throughput", "roofline"])
@pytest.mark.parametrize("files", FILES)
def test_the_name_of_a_peak_lies_on_no_point_and_no_line(chart: str, files: str) -> None:
    for axes in drawn(chart, FILES[files]):
        for words, box in boxes(axes):
            if not words.startswith("measured peak"):
                continue
            inner = box.shrunk(0.98, 0.5)
            for line in axes.lines:
                path = line.get_transform().transform_path(line.get_path())
                assert not path.intersects_bbox(inner, filled=False), (words, line.get_label())


def test_a_roof_s_ceiling_is_seen_where_all_points_are_below_its_slope() -> None:
    (axes,) = drawn("roofline", FILES["decoding alone"])
    (roof,) = [line for line in axes.lines if line.get_label() == "_roof"]
    assert max(roof.get_ydata()) == pytest.approx(233.0)
