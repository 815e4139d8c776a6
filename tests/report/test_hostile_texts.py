"""Any text in a results file stays text in every format: no markup, no command."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

import pytest
from helpers.fake_exports import make_duel, small_profile, with_failures
from helpers.fake_inference import make_inference
from helpers.fake_results import make_measurement, make_results
from helpers.fake_training import every_kind
from helpers.hostile import FRAGMENTS, TEXTS, with_texts
from helpers.html_page import parse_page
from helpers.rendering import rendered
from helpers.report_files import make_profile
from hypothesis import given, settings
from markdown_it import MarkdownIt
from msgspec.structs import replace
from rich.console import RenderableType

from flashbench.analysis.compare import Comparison, compare
from flashbench.report.compare import compare_markdown, compare_report
from flashbench.report.duel import duel_report
from flashbench.report.escapes import escape_markdown
from flashbench.report.infer import infer_report
from flashbench.report.machine import machine_report
from flashbench.report.markdown import results_markdown
from flashbench.report.memory import memory_report
from flashbench.report.plain import plain_report
from flashbench.report.profile import profile_report
from flashbench.report.step_log import StepLog
from flashbench.report.sweep import sweep_report
from flashbench.report.train import train_report
from flashbench.results.export import FORMATS
from flashbench.results.one_line import one_line
from flashbench.results.record import Results

FILES: dict[str, Callable[[], Results]] = {
    "profile": small_profile,
    "failures": with_failures,
    "duel": make_duel,
    "training": every_kind,
    "inference": make_inference,
}
REPORTS: dict[str, tuple[Callable[[Results], RenderableType], Callable[[], Results]]] = {
    "profile": (profile_report, with_failures),
    "sweep": (sweep_report, small_profile),
    "memory": (memory_report, with_failures),
    "duel": (duel_report, make_duel),
    "training": (train_report, every_kind),
    "inference": (infer_report, make_inference),
    "machine": (machine_report, small_profile),
}
# No linkify: it reads text after escapes are undone, and GitHub's parser does not.
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = ("link_open", "image", "html_block", "html_inline", "code_inline", "fence")
ALL = " ".join(FRAGMENTS)


def commands(text: str) -> list[str]:
    """The lines that GitHub's runner would obey (actions/runner, ActionCommand: TryParseV2 and TryParse)."""
    lines = re.split(r"[\r\n]+", text)
    return [line for line in lines if line.lstrip().startswith("::") or "##[" in line]


def as_logged(text: str) -> str:
    log = io.StringIO()
    StepLog(log).write(text)
    return log.getvalue()


def hostile_comparison(text: str) -> Comparison:
    results = with_texts(make_results([make_measurement("flash", n) for n in (64, 128, 256)]), text)
    return compare(results, results, base_name=f"{text}.json", new_name=f"{text}/new.json")


@given(TEXTS)
def test_one_line_is_one_that_can_be_seen_and_stays_so(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert "##[" not in line
    assert one_line(line) == line
    if text.isprintable() and "##[" not in text:
        assert line == text


@pytest.mark.parametrize("report", REPORTS)
@given(text=TEXTS)
@settings(max_examples=15)
def test_no_report_commands_a_terminal_or_a_runner(report: str, text: str) -> None:
    render, make = REPORTS[report]
    shown = render(with_texts(make(), text))
    for width in (40, 80):
        written = rendered(shown, width)
        assert written.replace("\n", "").isprintable()
        assert not commands(as_logged(written))


@given(TEXTS)
@settings(max_examples=15)
def test_the_documented_layout_commands_nothing_either(text: str) -> None:
    row = make_measurement("flash", 64, status="crashed", reason=text)
    written = plain_report(make_results([row]))
    assert written.replace("\n", "").isprintable()
    assert not commands(as_logged(written))


@given(TEXTS)
@settings(max_examples=15)
def test_no_comparison_commands_a_terminal_or_a_runner(text: str) -> None:
    comparison = hostile_comparison(text)
    written = rendered(compare_report(comparison), 40) + compare_markdown(comparison)
    assert written.replace("\n", "").isprintable()
    assert not commands(as_logged(written))


def test_a_table_would_begin_a_line_with_what_it_breaks() -> None:
    """The log needs protection too: at a width of 40, a one-line reason becomes several lines."""
    row = make_measurement("flash", 64, status="crashed", reason="x" * 39 + " ::error::wrapped")
    written = rendered(profile_report(make_results([row])), 40)
    assert commands(written)
    assert as_logged(written).splitlines()[-1].startswith(": :error")


@given(TEXTS)
def test_markdown_shows_a_text_letter_by_letter(text: str) -> None:
    (inline,) = MARKDOWN.parseInline(escape_markdown(text))
    assert {token.type for token in inline.children or []} <= {"text"}
    assert "".join(token.content for token in inline.children or []) == one_line(text).strip()


@given(TEXTS)
def test_a_text_begins_no_block_of_markdown(text: str) -> None:
    blocks = {token.type for token in MARKDOWN.parse(escape_markdown(text))}
    assert blocks <= {"paragraph_open", "inline", "paragraph_close"}


@pytest.mark.parametrize("file", FILES)
@given(text=TEXTS)
@settings(max_examples=15)
def test_no_markdown_has_links_images_html_or_commands(file: str, text: str) -> None:
    check_markdown(results_markdown(with_texts(FILES[file](), text)))


@given(TEXTS)
@settings(max_examples=15)
def test_no_markdown_of_a_comparison_has_them(text: str) -> None:
    check_markdown(compare_markdown(hostile_comparison(text)))


def check_markdown(text: str) -> None:
    assert not commands(text)
    assert not re.search(r"https?://|www\.", text)  # GitHub makes links of these
    for block in MARKDOWN.parse(text):
        for token in [block, *(block.children or [])]:
            assert token.type not in MARKUP
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("| "):
            assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines}) == 1


@pytest.mark.parametrize("file", ["profile", "failures", "duel"])
@given(text=TEXTS)
@settings(max_examples=15)
def test_no_cell_of_csv_is_a_formula_and_figures_are_numbers(file: str, text: str) -> None:
    results = with_texts(FILES[file](), text)
    written = FORMATS["csv"].render(results)
    assert not commands(written)
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert len(written.splitlines()) == len(results.measurements) + 1
    for row, measurement in zip(rows, results.measurements, strict=True):
        for cell in row.values():
            if cell.startswith(("=", "+", "-", "@")):
                float(cell)
        cpu = results.machine.cpu
        assert row["cpu"] == (f"'{cpu}" if cpu.startswith(("=", "+", "-", "@")) else cpu)
        if measurement.time:
            assert float(row["median_ns"]) == measurement.time.median_ns


def test_a_figure_below_zero_is_a_number_in_csv() -> None:
    row = make_measurement("flash", 64)
    assert row.memory is not None
    row = replace(row, memory=replace(row.memory, resident_delta_bytes=-4096))
    written = FORMATS["csv"].render(make_results([row]))
    (read,) = csv.DictReader(io.StringIO(written, newline=""))
    assert float(read["resident_delta_bytes"]) == -4096


@pytest.mark.parametrize("format_", ["bmf", "github-action-benchmark", "google-benchmark", "pyperf"])
@given(text=TEXTS)
@settings(max_examples=10)
def test_every_exported_name_is_plain(format_: str, text: str) -> None:
    written = FORMATS[format_].render(with_texts(with_failures(), text))
    assert not commands(written)
    names = re.findall(r'"(?:name|run_name)": "([^"]*)"', written)
    for name in [*names, *(json.loads(written) if format_ == "bmf" else [])]:
        assert re.fullmatch(r"[\w.][\w.+:/-]*", name)


def test_the_page_has_neither_scripts_nor_addresses_of_the_file() -> None:
    from flashbench.report.page.page import name_sources, report_page

    paths = [f"{ALL}.json", f"{ALL}<b>/other.json", "steps.json", "tokens.json"]
    files = [with_texts(make(), ALL) for make in (make_profile, make_duel, every_kind, make_inference)]
    page = parse_page(report_page(name_sources(paths, files)))
    for element in page.walk():
        assert element.tag not in ("script", "iframe", "img", "object", "embed", "base", "form")
        for name, value in element.attributes.items():
            assert not name.startswith("on")
            assert name not in ("href", "src") or value.startswith(("#", "data:,"))
    assert "<script>alert(1)</script>" in page.text


def test_colons_that_come_apart_are_one_command_less() -> None:
    log = io.StringIO()
    guarded = StepLog(log)
    for piece in ("a :: b\n", "  ", ":", ":error::x\n", "\r::", "notice::y"):
        guarded.write(piece)
    assert log.getvalue() == "a :: b\n  : :error::x\n\r: :notice::y"
