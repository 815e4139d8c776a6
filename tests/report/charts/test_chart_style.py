"""Colours that everyone can distinguish and read, and charts that do not change Matplotlib's settings."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import combinations

import matplotlib
import pytest
from helpers.report_files import make_profile, sources

from flashbench.report.charts.latency import latency_chart, latency_limits
from flashbench.report.charts.series import make_panels
from flashbench.report.charts.style import chart_bytes, engine_looks
from flashbench.report.colours import COLOURS, GRID, HEAT, INK, MUTED, PAPER, SERIES, Colour

Rgb = tuple[float, float, float]
# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(colour: str) -> Rgb:
    """sRGB to linear light, IEC 61966-2-1."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return red, green, blue


def luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, success criterion 1.4.3."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, blindness: str) -> Rgb:
    """CIE L*a*b*, D65, of a colour as seen with that kind of vision."""
    light = linear(colour)
    seen = [
        min(1.0, max(0.0, sum(weight * part for weight, part in zip(row, light, strict=True))))
        for row in BLINDNESS[blindness]
    ]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    x, y, z = (
        ratio ** (1 / 3) if ratio > 0.008856 else 7.787 * ratio + 16 / 116
        for ratio in (
            sum(weight * part for weight, part in zip(row, seen, strict=True)) / full
            for row, full in zip(to_xyz, white, strict=True)
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def shades(colour: Colour) -> tuple[str, str]:
    return colour.light, colour.dark


@pytest.mark.parametrize("shade", [0, 1], ids=["light", "dark"])
def test_all_text_is_readable(shade: int) -> None:
    paper = shades(PAPER)[shade]
    for colour in (INK, MUTED, *SERIES):
        assert contrast(shades(colour)[shade], paper) >= 4.5, colour.name
    for colour in HEAT:
        assert contrast(shades(INK)[shade], shades(colour)[shade]) >= 4.5, colour.name


@pytest.mark.parametrize("shade", [0, 1], ids=["light", "dark"])
def test_the_grid_is_fainter_than_any_line_on_it(shade: int) -> None:
    paper = shades(PAPER)[shade]
    assert contrast(shades(GRID)[shade], paper) < 1.5 < contrast(shades(MUTED)[shade], paper)


@pytest.mark.parametrize("shade", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_built_in_engines_have_hues_that_no_colour_blindness_merges(blindness: str, shade: int) -> None:
    for one, other in combinations(SERIES[:4], 2):
        difference = math.dist(lab(shades(one)[shade], blindness), lab(shades(other)[shade], blindness))
        assert difference > 10, (one.name, other.name)


def test_no_colour_stands_for_two_things() -> None:
    assert (
        len({colour.light for colour in COLOURS}) == len({colour.name for colour in COLOURS}) == len(COLOURS)
    )


def test_looks_differ_without_colour_and_built_in_engines_keep_theirs() -> None:
    many = [f"plugin-{number:02}" for number in range(12)]
    looks = engine_looks(["numpy", "flash", *many])
    assert len({(look.marker, look.dash) for look in looks.values()}) == len(looks)
    assert engine_looks(["flash"])["flash"] == looks["flash"]
    assert engine_looks(reversed(many))["plugin-03"] == looks["plugin-03"]


def draw() -> bytes:
    panels = make_panels(sources(make_profile()))
    limits = latency_limits(panels)
    assert limits is not None
    return chart_bytes(latency_chart(panels[0], limits), "svg")


def test_a_chart_has_the_same_bytes_each_time_whatever_the_user_s_own_style() -> None:
    first = draw()
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "lines.linewidth": 9}):
        assert draw() == first
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert b"<dc:date>" not in first


def test_text_of_a_chart_is_text() -> None:
    assert b">sequence length N</text>" in draw()
    assert b">torch-flash</text>" in draw()


def test_drawing_never_loads_pyplot() -> None:
    program = (
        "import sys; from flashbench.report.page.page import report_page; "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
