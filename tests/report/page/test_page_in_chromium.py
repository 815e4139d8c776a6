"""The page in a real browser: on a phone and a desk, light and dark, and not a word in its console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.chromium import CHROMIUM, Page, chromium
from helpers.fake_hosts import make_cluster, make_hosts
from helpers.fake_inference import make_inference
from helpers.fake_training import every_kind
from helpers.report_files import make_duel, make_profile, make_sweep, sources

from flashbench.report.colours import INK, PAPER
from flashbench.report.page.page import report_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

FILES = {
    "one": sources(make_profile()),
    "models": sources(make_inference(), every_kind()),
    "three": sources(make_profile(), make_sweep(), make_duel()),
    "hosts": sources(make_cluster(make_hosts(4, 1, slow={2: 1.2}))),
}
# Elements that reach past the right edge of the screen, except those that scroll in their own box.
OVERHANG = """
[...document.querySelectorAll("body *")].filter(
  (element) => !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 0.5
).map((element) => element.outerHTML.slice(0, 80))
"""
# Heights in CSS pixels of the text in the charts, as scaled.
TEXT_HEIGHTS = """
[...document.querySelectorAll("figure svg text")].map((text) =>
  parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a || 99)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(FILES[request.param]), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_scrolls_sideways(browser: Page, file: Path, width: int) -> None:
    browser.open(file, width=width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERHANG) == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_console_is_silent_and_only_the_file_is_asked_for(browser: Page, file: Path, dark: bool) -> None:
    browser.open(file, width=360, dark=dark)
    assert browser.value("[...document.querySelectorAll('details')].every((each) => each.open = true)")
    assert browser.complaints() == []
    assert browser.addresses() == [file.as_uri()]
    assert browser.value("performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_page_and_charts_follow_the_reader_s_colour_scheme(browser: Page, file: Path, dark: bool) -> None:
    browser.open(file, width=1280, dark=dark)
    paper, ink = (colour.dark if dark else colour.light for colour in (PAPER, INK))
    shown = "getComputedStyle(document.querySelector({!r})).{}"
    assert browser.value(shown.format("body", "backgroundColor")) == rgb(paper)
    assert browser.value(shown.format("body", "color")) == rgb(ink)
    assert browser.value(shown.format("figure svg path", "fill")) == rgb(paper)


@pytest.mark.parametrize("width", [360, 1280])
def test_text_is_large_enough_to_read(browser: Page, file: Path, width: int) -> None:
    browser.open(file, width=width)
    assert browser.value("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    heights = browser.value(TEXT_HEIGHTS)
    assert len(heights) > 50
    assert min(heights) >= 8.5
    sizes = "[...document.querySelectorAll('td')].map((each) => parseFloat(getComputedStyle(each).fontSize))"
    assert min(browser.value(sizes)) >= 13


def test_the_page_loads_a_chart_s_text_in_its_own_font(browser: Page, file: Path) -> None:
    browser.open(file, width=1280)
    font = "getComputedStyle(document.querySelector({!r})).fontFamily"
    assert browser.value(font.format("figure svg text")) == browser.value(font.format("body"))


def test_names_of_lines_are_not_cut(browser: Page, file: Path) -> None:
    browser.open(file, width=360)
    cut = """[...document.querySelectorAll("figure svg")].flatMap((drawing) => {
      const box = drawing.getBoundingClientRect();
      return [...drawing.querySelectorAll("text")].filter((text) => {
        const own = text.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
      }).map((text) => text.textContent);
    })"""
    assert browser.value(cut) == []


# The first table that is wider than the screen.
TABLE = """(() => {
  const box = [...document.querySelectorAll(".scroll")].find(
    (each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 60);
  box.scrollIntoView();
  const {left, right, top, height} = box.getBoundingClientRect();
  window.box = box;
  return {left, right, top: top + scrollY, height};
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_a_table_on_a_phone_shows_that_there_is_more(browser: Page, file: Path, dark: bool) -> None:
    """A shadow at an edge with more cells behind it; none at the table's end, none if all is visible."""
    browser.open(file, width=360, dark=dark)
    paper = PAPER.dark if dark else PAPER.light

    def shadows(table: dict[str, float]) -> tuple[bool, bool]:
        """The shadow alone: between the last letters and the line below them there is nothing else."""
        bottom = table["top"] + table["height"] - 4
        return tuple(browser.colour(x, bottom) != paper for x in (table["left"] + 1, table["right"] - 2))

    wide = browser.value(TABLE)
    assert shadows(wide) == (False, True)
    browser.value("box.scrollLeft = box.scrollWidth")
    assert shadows(wide) == (True, False)
    browser.value("box.scrollLeft = box.scrollWidth / 2 - 180")
    assert shadows(wide) == (True, True)


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"
