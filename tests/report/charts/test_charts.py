"""Charts draw the measured values: the artists of every chart against the records."""

from __future__ import annotations

import math

import pytest
from helpers.chart_artists import lines, points
from helpers.fake_results import make_measurement, make_results
from helpers.report_files import (
    ENGINES,
    FULL_MACHINE,
    make_duel,
    make_profile,
    make_sweep,
    sources,
)
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from msgspec.structs import replace

from flashbench.report.charts.heatmap import heatmap_chart
from flashbench.report.charts.latency import latency_chart, latency_limits
from flashbench.report.charts.memory import memory_chart, memory_limits
from flashbench.report.charts.overview import overview_chart
from flashbench.report.charts.roofline import roofline_chart, roofline_limits
from flashbench.report.charts.series import LONGEST_LABEL, Panel, Source, make_panels
from flashbench.report.charts.style import chart_bytes
from flashbench.report.charts.throughput import throughput_chart, throughput_limits
from flashbench.report.colours import HEAT, INK
from flashbench.results.record import Measurement, Results

CHARTS = {
    "latency": (latency_limits, latency_chart),
    "throughput": (throughput_limits, throughput_chart),
    "memory": (memory_limits, memory_chart),
    "roofline": (roofline_limits, roofline_chart),
}


def draw(name: str, *results: Results, panel: int = 0) -> Axes:
    limits_of, chart = CHARTS[name]
    panels = make_panels(sources(*results))
    limits = limits_of(panels)
    assert limits is not None
    (axes,) = chart(panels[panel], limits).axes
    return axes


def full_rows(results: Results, engine: str) -> list[Measurement]:
    """The rows of the first panel with a correct result."""
    return [
        row
        for row in results.measurements
        if row.engine == engine and not row.problem.causal and row.status == "ok"
    ]


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("engine", ENGINES)
def test_latency_is_the_median_and_its_bar_the_quartiles(engine: str) -> None:
    results = make_profile()
    axes = draw("latency", results)
    rows = full_rows(results, engine)
    assert points(lines(axes)[engine]) == [(row.problem.seqlen_k, row.time.median_ns / 1e6) for row in rows]
    colour = lines(axes)[engine].get_color()
    (bars,) = [each for each in axes.collections if to_hex(each.get_color()[0]) == colour]
    assert [[tuple(end) for end in bar] for bar in bars.get_segments()] == [
        [(row.problem.seqlen_k, row.time.low_ns / 1e6), (row.problem.seqlen_k, row.time.high_ns / 1e6)]
        for row in rows
    ]


@pytest.mark.parametrize("engine", ENGINES)
def test_throughput_is_the_rate_and_the_level_the_measured_peak(engine: str) -> None:
    results = make_profile()
    axes = draw("throughput", results)
    rows = full_rows(results, engine)
    assert points(lines(axes)[engine]) == [(row.problem.seqlen_k, row.rates.gflops) for row in rows]
    peak = results.machine.peak_gflops["float64"]
    assert lines(axes)["_peak"].get_ydata() == [peak, peak]
    assert "measured peak 117" in words(axes)


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_is_the_measured_workspace(engine: str) -> None:
    results = make_profile()
    rows = [
        row
        for row in results.measurements
        if row.engine == engine and not row.problem.causal and row.memory is not None
    ]
    axes = draw("memory", results)
    assert points(lines(axes)[engine]) == [
        (row.problem.seqlen_k, row.memory.workspace_peak_bytes) for row in rows
    ]


def test_memory_guides_have_slopes_one_and_two_and_hide_no_line() -> None:
    axes = draw("memory", make_profile())
    highest = max(
        y for label, line in lines(axes).items() if label[0] != "_" for x, y in points(line) if x == 512
    )
    for label, slope in (("_\N{PROPORTIONAL TO} N", 1), ("_\N{PROPORTIONAL TO} N\N{SUPERSCRIPT TWO}", 2)):
        (x0, y0), (x1, y1) = points(lines(axes)[label])
        assert math.log(y1 / y0) / math.log(x1 / x0) == pytest.approx(slope)
        assert (x0, y0 > highest) == (512, True)


def test_a_workspace_of_nothing_is_a_point_at_one_byte() -> None:
    row = make_measurement("flash", 512)
    row = replace(row, memory=replace(row.memory, workspace_peak_bytes=0))
    assert points(lines(draw("memory", make_results([row])))["flash"]) == [(512, 1)]


def test_roofline_is_operations_per_byte_below_the_measured_roof() -> None:
    results = make_profile()
    axes = draw("roofline", results)
    # Forward at N, per head: 4 N^2 d operations; q, k, v, o with N d numbers each and lse with N, of 8 bytes.
    expected = [
        (4 * n * n * 64 / (8 * n * (4 * 64 + 1)), row.rates.gflops)
        for row in full_rows(results, "flash")
        for n in [row.problem.seqlen_k]
    ]
    drawn_points = points(lines(axes)["flash"])
    assert [x for x, _ in drawn_points] == pytest.approx([x for x, _ in expected])
    assert [y for _, y in drawn_points] == [y for _, y in expected]
    left, ridge, right = points(lines(axes)["_roof"])
    assert ridge[0] == pytest.approx(117 / 24.5)
    assert ridge[1] == pytest.approx(117)
    assert left[1] / left[0] == pytest.approx(24.5)
    assert right[1] == 117
    assert "measured peak 117, 24.5 GB/s" in words(axes)


def test_without_a_bandwidth_the_roof_is_a_ceiling_and_says_so() -> None:
    results = replace(make_profile(), machine=replace(FULL_MACHINE, read_bandwidth_gbps=None))
    axes = draw("roofline", results)
    assert "measured peak 117, no bandwidth" in words(axes)
    (level,) = [line for label, line in lines(axes).items() if label[0] == "_"]
    assert level.get_ydata() == [117, 117]


def test_peaks_too_close_for_a_name_each_share_one() -> None:
    files = [
        replace(make_profile(), machine=replace(FULL_MACHINE, peak_gflops={"float64": peak}))
        for peak in (112.0, 114.0, 230.0)
    ]
    for name in ("throughput", "roofline"):
        named = [text for text in words(draw(name, *files)) if text.startswith("measured")]
        assert named[0] == "measured peak 112 and 114"
        assert named[1].startswith("measured peak 230")


def test_without_a_peak_there_is_no_roofline() -> None:
    results = replace(make_profile(), machine=replace(FULL_MACHINE, peak_gflops={}))
    assert roofline_limits(make_panels(sources(results))) is None
    assert [label for label in lines(draw("throughput", results)) if label[0] == "_"] == []


@pytest.mark.parametrize("name", CHARTS)
def test_all_panels_of_a_chart_have_the_same_axes(name: str) -> None:
    first, second = (draw(name, make_profile(), panel=panel) for panel in (0, 1))
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    assert first.get_xscale() == first.get_yscale() == "log"


@pytest.mark.parametrize("name", CHARTS)
def test_each_engine_is_named_at_the_end_of_its_line_in_its_colour(name: str) -> None:
    axes = draw(name, make_profile())
    named = {text.get_text(): text for text in axes.texts}
    for engine in ENGINES:
        assert named[engine].get_color() == lines(axes)[engine].get_color()
    assert axes.get_legend() is None


def test_two_files_are_told_apart_by_dash_and_filling_and_named_below() -> None:
    axes = draw("latency", make_profile(), make_profile(slower=1.3))
    one, two = lines(axes)["flash \N{MIDDLE DOT} one"], lines(axes)["flash \N{MIDDLE DOT} two"]
    assert one.get_color() == two.get_color()
    assert one.get_marker() == two.get_marker()
    assert one.get_linestyle() != two.get_linestyle()
    assert one.get_markerfacecolor() != two.get_markerfacecolor()
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 8


def drawn(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("files", [1, 2, 3])
def test_names_lie_within_the_figure_and_on_nothing_else(name: str, files: int) -> None:
    axes = draw(name, *[make_profile()] * files)
    figure = drawn(axes)
    whole = figure.bbox.padded(1)
    legend = axes.get_legend()
    names = [text for text in axes.texts if text.get_text() in ENGINES]
    boxes = [artist.get_window_extent() for artist in ([legend] if legend else names)]
    for box in boxes:
        assert whole.contains(box.x0, box.y0)
        assert whole.contains(box.x1, box.y1)
        assert not box.overlaps(axes.xaxis.label.get_window_extent())
        assert not box.overlaps(axes.get_window_extent().padded(-1))
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


@pytest.mark.parametrize("letters", range(3, 9))
def test_a_legend_of_any_length_is_not_cut(letters: int) -> None:
    """In two columns it would reach past the figure, beside labels as wide as those of memory."""
    panels = make_panels([Source(letter * letters, make_profile()) for letter in "nu"])
    limits = memory_limits(panels)
    assert limits is not None
    (axes,) = memory_chart(panels[0], limits).axes
    figure = drawn(axes)
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("name", CHARTS)
def test_no_tick_label_lies_on_another(name: str) -> None:
    axes = draw(name, make_profile())
    drawn(axes)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert len(boxes) >= 2
        assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


def test_a_sweep_s_line_is_the_best_block_and_says_so() -> None:
    results = make_sweep()
    axes = draw("latency", results)
    rows = [row for row in results.measurements if row.time is not None]
    assert points(lines(axes)["flash (best block)"]) == [
        (n, min(row.time.median_ns for row in rows if row.problem.seqlen_k == n) / 1e6)
        for n in (128, 1024, 4096)
    ]


def test_the_sides_of_a_duel_are_lines_of_their_own() -> None:
    assert set(lines(draw("latency", make_duel()))) == {"A: flash", "B: standard"}
    same = make_duel()
    rows = [replace(row, engine="flash") for row in same.measurements]
    for files in ([replace(same, measurements=rows)], [replace(same, measurements=rows), make_profile()]):
        one, two = list(lines(draw("latency", *files)).values())[:2]
        assert one.get_markerfacecolor() != two.get_markerfacecolor()


def test_a_study_of_head_sizes_is_drawn_over_them_and_has_no_guides() -> None:
    rows = [make_measurement("flash", 2048, head_dim=size) for size in (40, 64, 128)]
    axes = draw("memory", make_results(rows))
    assert [x for x, _ in points(lines(axes)["flash"])] == [40, 64, 128]
    assert axes.get_xlabel() == "head size"
    assert set(lines(axes)) == {"flash"}


def test_a_dollar_sign_is_no_formula() -> None:
    row = replace(make_measurement("flash", 512), engine="$x^2$")
    panels = make_panels(sources(make_results([row])))
    limits = latency_limits(panels)
    assert limits is not None
    assert b">$x^2$</text>" in chart_bytes(latency_chart(panels[0], limits), "svg")


def sweep_panel() -> Panel:
    (panel,) = make_panels(sources(make_sweep()))
    return panel


def test_the_heatmap_shows_each_ratio_marks_the_best_and_what_auto_chose() -> None:
    (axes,) = heatmap_chart(sweep_panel().series[0]).axes
    cells = {(round(text.get_position()[0] - 0.5), int(text.get_position()[1])): [] for text in axes.texts}
    for text in axes.texts:
        cells[round(text.get_position()[0] - 0.5), int(text.get_position()[1])].append(text.get_text())
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert columns == ["16", "32", "64", "auto"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["128", "1024", "4096"]
    assert cells[3, 0] == ["best", "64"]
    assert cells[2, 1] == ["best"]
    assert cells[0, 2] == ["too\nlarge"]
    # From the median times: 1.3 / 0.97, and the fixed part of a call.
    rows = {row.blocks_asked: row for row in make_sweep().measurements if row.problem.seqlen_k == 1024}
    ratio = rows[16, 16].time.median_ns / rows[64, 64].time.median_ns
    assert cells[0, 1] == [f"+{100 * (ratio - 1):.0f}%"]
    framed = [
        patch
        for patch in axes.patches
        if patch.get_linewidth() and to_hex(patch.get_edgecolor()) == INK.light
    ]
    assert [(round(patch.get_x()), round(patch.get_y())) for patch in framed] == [(3, 0), (2, 1), (2, 2)]
    assert {to_hex(patch.get_facecolor()) for patch in framed} == {HEAT[0].light}


def test_an_overview_has_time_on_the_left_and_memory_on_the_right() -> None:
    figure = overview_chart(make_profile())
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "time of a call, ms",
        "peak workspace",
    ] * 2
    assert chart_bytes(figure, "png").startswith(b"\x89PNG")


def test_an_overview_without_memory_shows_throughput_and_one_without_times_is_none() -> None:
    rows = [replace(row, memory=None) for row in make_profile().measurements]
    figure = overview_chart(make_results(rows))
    assert figure is not None
    assert figure.axes[1].get_title(loc="left") == "GFLOP/s"
    assert overview_chart(make_results([replace(row, time=None, rates=None) for row in rows])) is None


def test_a_name_of_any_length_leaves_the_chart_its_width() -> None:
    """Matplotlib warns, and draws no axes, if a legend is wider than the figure."""
    row = make_measurement("flash", 64)
    named = make_results([replace(row, engine="n" * 300), replace(row, engine="v" * 300 + "2")])
    (panel,) = make_panels([Source("x" * 255, named), Source("y" * 255, named)])
    labels = [series.label for series in panel.series]
    assert all(len(label) <= LONGEST_LABEL + 1 for label in labels)
    assert labels[0][:9] == "n" * 9
    assert labels[0][-9:] == "x" * 9
    limits = latency_limits([panel])
    assert limits is not None
    chart_bytes(latency_chart(panel, limits), "svg")
