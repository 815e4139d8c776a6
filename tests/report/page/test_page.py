"""The page as a document: one file, nothing from any network, every chart and table named, text escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.fake_inference import make_inference
from helpers.fake_results import make_measurement, make_results
from helpers.fake_training import every_kind
from helpers.html_page import Element, parse_page, table_text
from helpers.report_files import (
    PROCESS,
    make_duel,
    make_empty,
    make_features,
    make_profile,
    make_scaling,
    make_sweep,
    sources,
)
from msgspec.structs import replace
from syrupy.assertion import SnapshotAssertion

from flashbench.errors import ConfigError
from flashbench.report.colours import COLOURS
from flashbench.report.page.page import name_sources, report_page
from flashbench.results.documented import documented_results
from flashbench.results.record import Results
from flashbench.results.store import load

EVIL = "<script>alert(1)</script>\"'&$x$"
CASES: dict[str, list[Results]] = {
    "profile": [make_profile()],
    "documented rows": [make_results()],
    "scaling": [make_scaling()],
    "sweep": [make_sweep()],
    "duel": [make_duel()],
    "two files": [make_profile(engines=("flash", "standard")), make_results()],
    "features": [make_features()],
    "inference": [make_inference()],
    "training": [every_kind()],
    "measurements and models": [make_results(), make_inference(), every_kind()],
    "nothing measured": [make_empty()],
    "documented alone": [documented_results()],
}


@pytest.fixture(scope="module", params=CASES)
def page(request: pytest.FixtureRequest) -> Element:
    return parse_page(report_page(sources(*CASES[request.param])))


def evil_results() -> Results:
    """Results with markup in every field that may hold any text."""
    rows = [
        replace(
            make_measurement("flash", seqlen, status=status, reason=EVIL),
            engine=f"flash{EVIL}",
            kernel=EVIL,
            note=EVIL,
        )
        for seqlen, status in ((128, "ok"), (512, "ok"), (1024, "crashed"))
    ]
    results = make_results(rows)
    return replace(
        results,
        config={EVIL: EVIL, "title": EVIL},
        warnings=[EVIL],
        command=[EVIL],
        created=EVIL,
        flashbench_version=EVIL,
        machine=replace(results.machine, cpu=EVIL, libraries={EVIL: EVIL}),
        processes={EVIL: replace(PROCESS, python=EVIL, environment={EVIL: EVIL})},
    )


def tables(page: Element) -> str:
    return "\n\n".join(table_text(table) for table in page.all("table"))


@pytest.mark.parametrize("name", CASES)
def test_words_and_tables(name: str, snapshot: SnapshotAssertion) -> None:
    page = parse_page(report_page(sources(*CASES[name])))
    words = [element.text for tag in ("h1", "h2", "p", "li", "figcaption") for element in page.all(tag)]
    assert "\n".join([*words, "", tables(page)]) == snapshot


def test_the_parts_stand_in_their_order() -> None:
    page = parse_page(report_page(sources(make_profile(), make_sweep(), make_duel())))
    assert [heading.text for heading in page.all("h2")] == [
        "Warnings of the run",
        "Verdicts",
        "Latency",
        "Throughput",
        "Memory",
        "Block sizes",
        "Roofline",
        "Documented and measured",
        "Everything measured",
        "Machine and settings",
    ]


def test_nothing_on_the_page_comes_from_a_network(page: Element) -> None:
    for element in page.walk():
        assert element.tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            assert "//" not in value or element.tag == "meta", (element.tag, name, value)
            if name in ("href", "src"):
                assert value.startswith(("#", "data:")), value
    sheet = page.one("style").text
    assert "@import" not in sheet
    styles = [sheet, *(element.attributes.get("style", "") for element in page.walk())]
    styles += [element.attributes.get("clip-path", "") for element in page.walk()]
    assert all(address.startswith("#") for text in styles for address in re.findall(r"url\(([^)]*)", text))


def test_the_browser_is_told_to_load_nothing(page: Element) -> None:
    (policy,) = [
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_every_table_has_a_caption_and_every_heading_a_scope(page: Element) -> None:
    assert page.all("table")
    for table in page.all("table"):
        assert table.one("caption").text
        assert len({len(row.all("th") + row.all("td")) for row in table.all("tr")}) == 1
        for heading in table.all("th"):
            assert heading.attributes["scope"] in ("col", "row")
        for row in table.one("tbody").all("tr"):
            assert row.all("th")


def test_every_chart_is_named_described_and_has_a_table(page: Element) -> None:
    ids = {element.attributes["id"]: element for element in page.walk() if "id" in element.attributes}
    for figure in page.all("figure"):
        drawing = figure.one("svg")
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-label"]
        description = ids[drawing.attributes["aria-describedby"]]
        assert description.tag == "desc"
        assert re.search(r"\d", description.text)
        table = ids[figure.one("a").attributes["href"].removeprefix("#")]
        assert table.tag == "table"


def test_ids_are_unique_and_references_lead_somewhere(page: Element) -> None:
    ids = [element.attributes["id"] for element in page.walk() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for element in page.walk():
        for name, value in element.attributes.items():
            if name == "href" and value.startswith("#"):
                assert value[1:] in ids
            if name in ("aria-labelledby", "aria-describedby"):
                assert value in ids
            assert set(re.findall(r"url\(#([^)]*)\)", value)) <= set(ids)


def test_charts_have_no_colour_font_or_style_sheet_of_their_own(page: Element) -> None:
    names = {colour.name for colour in COLOURS}
    for drawing in page.all("svg"):
        assert not drawing.all("style")
        assert not drawing.all("metadata")
        for element in drawing.walk():
            style = element.attributes.get("style", "")
            assert "#" not in style.replace("url(#", "")
            assert "font-family" not in style
            assert set(re.findall(r"var\(--([^)]*)\)", style)) <= names


def test_both_colour_schemes_define_every_colour(page: Element) -> None:
    sheet = page.one("style").text
    for colour in COLOURS:
        assert re.findall(rf"--{colour.name}: (#\w+);", sheet) == [colour.light, colour.dark]


def test_what_a_file_says_is_text_and_never_markup() -> None:
    text = report_page(sources(evil_results()))
    page = parse_page(text)
    assert "<script" not in text
    assert not page.all("script")
    assert page.one("title").text == f"{EVIL} - flashbench"
    assert page.one("h1").text == EVIL
    shown = page.one("main").text
    assert shown.count(EVIL) > 15
    assert any(EVIL in label.text for drawing in page.all("svg") for label in drawing.all("text"))


def test_the_same_files_give_the_same_page() -> None:
    files = sources(make_profile(), make_sweep())
    assert report_page(files) == report_page(files)


def test_long_tables_are_folded_and_short_ones_are_open() -> None:
    short = parse_page(report_page(sources(make_results())))
    assert all("open" in each.attributes for each in short.all("details"))
    rows = [make_measurement("flash", seqlen) for seqlen in range(64, 64 * 42, 64)]
    long = parse_page(report_page(sources(make_results(rows))))
    assert not any("open" in each.attributes for each in long.all("details"))


def test_views_of_memory_that_disagree_are_marked() -> None:
    row = make_measurement("standard", 1024)
    grown = 64 * 1024**2 + row.memory.output_bytes
    memory = replace(row.memory, expected_workspace_bytes=1024, resident_delta_bytes=grown)
    page = parse_page(report_page(sources(make_results([replace(row, memory=memory)]))))
    marked = [cell.text for cell in page.all("td") if cell.attributes.get("class") == "doubtful"]
    assert marked == ["64.00 MiB \N{LEFT RIGHT ARROW}", "1.00 KiB \N{LEFT RIGHT ARROW}"]


def test_documented_figures_of_a_file_take_the_place_of_ours() -> None:
    given = documented_results()
    rows = [row for row in given.measurements if row.problem.batch == 8]
    page = parse_page(report_page(sources(make_results(), replace(given, measurements=rows))))
    (table,) = [table for table in page.all("table") if table.one("caption").text.startswith("Documented")]
    assert len(table.one("tbody").all("tr")) == 5
    assert "two" not in [heading.text for heading in page.all("th")]


@pytest.mark.parametrize("name", ["amd-epyc-zen4-2-cores", "amd-epyc-zen4-2-cores-speed"])
def test_the_committed_runs_make_pages(repository: Path, name: str) -> None:
    results = load(repository / "results" / f"{name}.json")
    page = parse_page(report_page(name_sources([f"{name}.json"], [results])))
    shown = sum(
        len(table.one("tbody").all("tr"))
        for table in page.all("table")
        if table.attributes["id"].startswith("measured")
    )
    assert shown == len(results.measurements)


def test_files_go_by_their_bare_names_and_by_paths_where_those_are_alike() -> None:
    results = make_results()
    names = [source.name for source in name_sources(["a/x.json", "b/x.json", "y.json"], [results] * 3)]
    assert names == ["a/x.json", "b/x.json", "y"]
    with pytest.raises(ConfigError, match=r"x\.json is given 2 times: once is enough"):
        name_sources(["x.json", "x.json"], [results] * 2)
