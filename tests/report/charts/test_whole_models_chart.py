"""Charts of whole models draw the figures of the rows, and nothing for a row that is not ok."""

from __future__ import annotations

import pytest
from helpers.chart_artists import lines, points
from helpers.fake_inference import ARMS, make_inference, make_test
from helpers.fake_results import make_results, make_time
from helpers.fake_training import every_kind, make_step, make_training
from helpers.report_files import sources
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from msgspec.structs import replace

from flashbench.analysis.inference import tokens_per_second
from flashbench.analysis.whole_models import model_rows
from flashbench.report.charts.overview import overview_chart
from flashbench.report.charts.style import chart_bytes
from flashbench.report.charts.whole_models import (
    PEAKS,
    STEPS,
    TOKENS,
    Quantity,
    model_chart,
    model_limits,
    model_panels,
)
from flashbench.results.record import InferenceTest, Results

TESTS = {"prefill": 0, "decode": 1}


def draw(quantity: Quantity, *results: Results, panel: int = 0) -> Axes:
    panels = model_panels(sources(*results))
    limits = model_limits(panels[panel], panels, quantity)
    assert limits is not None
    (axes,) = model_chart(panels[panel], limits, quantity).axes
    return axes


def bars(axes: Axes, label: str) -> list[list[tuple[float, float]]]:
    colour = lines(axes)[label].get_color()
    (found,) = [each for each in axes.collections if to_hex(each.get_color()[0]) == colour]
    return [[tuple(map(float, end)) for end in bar] for bar in found.get_segments()]


def spread_inference() -> Results:
    """As `make_inference`, with processes that differ, so that intervals have a length."""
    results = make_inference()
    tests = [
        replace(test, time=replace(test.time, samples_ns=[[int(0.9 * ns)], [int(ns)], [int(1.2 * ns)]]))
        for test in results.inference
        if test.time is not None
        for ns in [test.time.median_ns]
    ]
    return replace(results, inference=tests)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("attention", ARMS)
def test_tokens_are_the_rate_and_its_bar_the_interval(test: str, attention: str) -> None:
    results = spread_inference()
    axes = draw(TOKENS, results, panel=TESTS[test])
    rows = [row for row in results.inference if (row.test, row.attention) == (test, attention)]
    rates = [tokens_per_second(row) for row in rows]
    assert points(lines(axes)[attention]) == [
        (row.depth, rate.median) for row, rate in zip(rows, rates, strict=True)
    ]
    assert bars(axes, attention) == [
        [(row.depth, rate.low), (row.depth, rate.high)] for row, rate in zip(rows, rates, strict=True)
    ]
    assert all(rate.low < rate.median < rate.high for rate in rates)


def test_tokens_begin_at_zero_and_hold_every_bar_and_depth() -> None:
    results = spread_inference()
    tops = []
    for test, panel in TESTS.items():
        axes = draw(TOKENS, results, panel=panel)
        assert axes.get_xscale() == axes.get_yscale() == "linear"
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        highest = max(tokens_per_second(row).high for row in results.inference if row.test == test)
        assert (bottom, left < 0 < 4000 < right, highest < top) == (0, True, True)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4000"]
        tops.append(top)
    assert tops[0] > 10 * tops[1], "decoding keeps a scale of its own"


def test_a_single_depth_of_zero_is_a_point() -> None:
    row = make_test("flash", "decode", 0)
    axes = draw(TOKENS, replace(make_inference(), inference=[row]))
    assert points(lines(axes)["flash"]) == [(0, tokens_per_second(row).median)]
    assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1]


def test_steps_are_the_median_with_quartiles_over_logarithmic_axes() -> None:
    steps = [replace(make_step("flash", n), time=make_time(1e6 * n, spread=0.1)) for n in (512, 2048)]
    axes = draw(STEPS, make_training(steps))
    assert points(lines(axes)["flash"]) == [
        (step.context_length, step.time.median_ns / 1e6) for step in steps
    ]
    assert bars(axes, "flash") == [
        [
            (step.context_length, step.time.low_ns / 1e6),
            (step.context_length, step.time.high_ns / 1e6),
        ]
        for step in steps
    ]
    assert all(step.time.low_ns < step.time.high_ns for step in steps)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "context length"


def test_all_models_of_training_share_their_axes() -> None:
    large = [make_step(arm, 1024, model="TFT") for arm in ("standard", "flash")]
    small = [make_step("flash", 64, model="PatchTST")]
    first, second = (draw(STEPS, make_training([*large, *small]), panel=panel) for panel in (0, 1))
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())


@pytest.mark.parametrize("results", [make_inference(), every_kind()], ids=["infer", "train"])
def test_peaks_are_those_of_the_rows_that_are_right(results: Results) -> None:
    axes = draw(PEAKS, results)
    rows = [row for row in model_rows(results) if row.status == "ok" and _in_first_panel(row)]
    for attention in {row.attention for row in rows}:
        assert [y for _, y in points(lines(axes)[attention])] == [
            row.peak_bytes for row in rows if row.attention == attention
        ]
    assert axes.get_yscale() == "log"


def _in_first_panel(row: object) -> bool:
    return row.test == "prefill" if isinstance(row, InferenceTest) else True


def test_a_row_that_is_not_ok_gives_no_point() -> None:
    results = every_kind()
    axes = draw(STEPS, results)
    drawn = {(name, x) for name, line in lines(axes).items() for x, _ in points(line)}
    assert drawn == {
        (row.attention, row.context_length) for row in results.training if row.status == "ok" and row.time
    }
    # 4096: too large, crashed, ok, and wrong although it was timed.
    assert [name for name, x in drawn if x == 4096] == ["torch-flash"]
    panels = model_panels(sources(results))
    assert panels[1].words[0] == "Informer"
    assert model_limits(panels[1], panels, STEPS) is None


def test_two_files_are_told_apart_and_a_file_alone_is_not_named() -> None:
    assert set(lines(draw(TOKENS, make_inference()))) == set(ARMS)
    axes = draw(TOKENS, make_inference(), spread_inference())
    one, two = lines(axes)["flash \N{MIDDLE DOT} one"], lines(axes)["flash \N{MIDDLE DOT} two"]
    assert one.get_color() == two.get_color()
    assert one.get_linestyle() != two.get_linestyle()
    assert one.get_markerfacecolor() != two.get_markerfacecolor()


def test_an_attention_looks_the_same_whichever_others_there_are() -> None:
    results = make_inference()
    alone = [test for test in results.inference if test.attention == "sdpa"]
    one, other = (lines(draw(TOKENS, each))["sdpa"] for each in (results, replace(results, inference=alone)))
    assert (one.get_color(), one.get_marker()) == (other.get_color(), other.get_marker())


def test_a_step_without_data_stands_with_the_others_of_its_model() -> None:
    """It failed before its data was read."""
    steps = [replace(make_step("standard", 512), data=None, series=None), make_step("flash", 512)]
    (panel,) = model_panels(sources(make_training(steps)))
    assert panel.words == ("PatchTST", "float32", "sf-temps", "4 windows")
    assert [line.label for line in panel.series] == ["standard", "flash"]


@pytest.mark.parametrize(
    ("results", "left"),
    [(make_inference(), "tokens/s"), (every_kind(), "time of a step, ms")],
    ids=["infer", "train"],
)
def test_an_overview_has_speed_on_the_left_and_memory_on_the_right(results: Results, left: str) -> None:
    figure = overview_chart(results)
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [left, "peak memory"] * (len(titles) // 2)
    assert chart_bytes(figure, "svg") == chart_bytes(overview_chart(results), "svg")


def test_an_overview_without_memory_is_speed_alone_and_without_a_time_none() -> None:
    results = make_inference()
    alone = [replace(test, peak_bytes=None) for test in results.inference]
    figure = overview_chart(replace(results, inference=alone))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tokens/s"] * 2
    untimed = [replace(test, time=None) for test in results.inference]
    assert overview_chart(replace(results, inference=untimed)) is None
    assert overview_chart(make_results([])) is None


@pytest.mark.parametrize("quantity", [TOKENS, PEAKS], ids=["tokens", "peaks"])
@pytest.mark.parametrize("files", [1, 2])
def test_names_lie_within_the_figure_and_on_nothing_else(quantity: Quantity, files: int) -> None:
    axes = draw(quantity, *[make_inference()] * files)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    whole, legend = figure.bbox.padded(1), axes.get_legend()
    boxes = [artist.get_window_extent() for artist in ([legend] if legend else axes.texts)]
    for box in boxes:
        assert whole.contains(box.x0, box.y0)
        assert whole.contains(box.x1, box.y1)
        assert not box.overlaps(axes.get_window_extent().padded(-1))
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)
