"""The scaling chart draws the speed-up of each curve."""

from __future__ import annotations

import pytest
from helpers.chart_artists import lines, points
from helpers.fake_results import make_results
from helpers.report_files import make_profile, make_scaling, sources

from flashbench.report.charts.scaling import scaling_chart, scaling_panels
from flashbench.report.charts.series import make_panels


def test_scaling_is_the_speed_up_over_the_fewest_threads() -> None:
    (panel,) = scaling_panels(sources(make_scaling()))
    (axes,) = scaling_chart(panel).axes
    found = lines(axes)
    assert [series.label for series in panel.series] == [
        f"{engine}, N {seqlen}" for engine in ("flash", "numpy") for seqlen in (512, 1024)
    ]
    assert points(found["flash, N 1024"]) == [
        (1, 1),
        (2, pytest.approx(1.9, rel=1e-3)),
        (8, pytest.approx(6, rel=1e-3)),
    ]
    assert points(found["numpy, N 512"]) == [
        (1, 1),
        (2, pytest.approx(1.5, rel=1e-3)),
        (8, pytest.approx(2, rel=1e-3)),
    ]
    assert points(found["_ideal"]) == [(1, 1.0), (8, 8.0)]
    assert {text.get_text() for text in axes.get_xticklabels()} == {"1", "2", "8"}
    assert found["flash, N 512"].get_color() == found["flash, N 1024"].get_color()
    assert found["flash, N 512"].get_linestyle() != found["flash, N 1024"].get_linestyle()


def test_lines_over_the_length_are_told_apart_by_their_threads() -> None:
    (panel,) = make_panels(sources(make_scaling()))
    assert [series.label for series in panel.series][:3] == [
        "flash, 1 thread",
        "flash, 2 threads",
        "flash, 8 threads",
    ]


def test_without_a_curve_there_is_no_scaling() -> None:
    assert scaling_panels(sources(make_profile(), make_results())) == []
