"""The page of files of `infer` and `train`: every figure of every row, alone and beside measurements."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_inference import make_inference, make_test
from helpers.fake_results import make_time
from helpers.fake_training import every_kind, make_training
from helpers.html_page import Element, parse_page
from helpers.report_files import make_profile, sources
from msgspec.structs import replace

from flashbench.analysis.arm_duel import duel_of_arms
from flashbench.analysis.inference import tokens_per_second
from flashbench.analysis.whole_models import ModelRow, model_rows
from flashbench.report.page.page import name_sources, report_page
from flashbench.results.record import Results
from flashbench.results.store import load

MEASURED_ALONE = {"Latency", "Throughput", "Memory", "Roofline", "Documented and measured"}


def page_of(*results: Results) -> Element:
    return parse_page(report_page(sources(*results)))


def headings(page: Element) -> set[str]:
    return {heading.text for heading in page.all("h2")}


def model_cells(page: Element) -> list[dict[str, str]]:
    """Each row of the tables of everything measured of whole models, by its headings."""
    found = []
    for table in page.all("table"):
        if table.attributes["id"].startswith("models-"):
            names = [heading.text for heading in table.one("thead").all("th")]
            for row in table.one("tbody").all("tr"):
                cells = [cell.text for cell in row.children if isinstance(cell, Element)]
                found.append(dict(zip(names, cells, strict=True)))
    return found


def check_time(cells: dict[str, str], row: ModelRow) -> None:
    time = row.time
    if time is None:
        assert cells.get("Median, ms", "\N{EN DASH}") == "\N{EN DASH}"
        return
    for name, value in (("Median, ms", time.median_ns), ("25 %", time.low_ns), ("75 %", time.high_ns)):
        assert float(cells[name]) == pytest.approx(value / 1e6, abs=0.005)
    assert cells["Processes"] == str(len(time.samples_ns))
    assert cells["Calls"] == str(sum(map(len, time.samples_ns)))


def test_every_figure_of_a_test_of_inference_is_in_the_table() -> None:
    results = make_inference()
    tests = [
        replace(test, note="a note", time=make_time(test.time.median_ns, processes=6, spread=0.05))
        for test in results.inference
        if test.time is not None
    ]
    rows = model_cells(page_of(replace(results, inference=tests)))
    assert len(rows) == len(tests)
    for cells, test in zip(rows, tests, strict=True):
        rate = tokens_per_second(test)
        assert (cells["Depth"], cells["Attention"]) == (str(test.depth), test.attention)
        for name, value in (("Tokens/s", rate.median), ("from", rate.low), ("to", rate.high)):
            assert float(cells[name]) == pytest.approx(value, abs=0.5 if value >= 99.5 else 0.05)
        assert float(cells["Confidence, %"]) == pytest.approx(100 * rate.confidence, abs=0.05)
        check_time(cells, test)
        assert cells.get("First token, ms") == (cells["Median, ms"] if test.test == "prefill" else None)
        assert float(cells["Attention, ms"]) == pytest.approx(test.attention_ns / 1e6, abs=0.005)
        assert float(cells["Attention, %"]) == pytest.approx(100 * test.attention_share, abs=0.05)
        assert cells["Parameters"] == "150,000"
        assert cells["Weights"] == "585.94 KiB"
        assert cells["Cache before"] == ("0 B" if test.depth == 0 else "3.81 MiB")
        assert cells["Status"] == "a note"
    peaks = {cells["Peak"] for cells in rows if cells["Depth"] == "4000"}
    assert peaks == {"400.39 KiB", "19.08 MiB", "205.08 KiB"}


def test_every_figure_of_a_training_step_is_in_the_table() -> None:
    results = every_kind()
    rows = model_cells(page_of(results))
    assert len(rows) == len(results.training)
    for cells, step in zip(rows, results.training, strict=True):
        assert (cells["Context"], cells["Attention"]) == (str(step.context_length), step.attention)
        check_time(cells, step)
        for name, value in (
            ("Forward", step.forward_ns),
            ("Backward", step.backward_ns),
            ("Optimizer", step.optimizer_ns),
            ("Attention forward", step.attention_forward_ns),
            ("Attention backward", step.attention_backward_ns),
        ):
            if value is not None:
                assert float(cells[name]) == pytest.approx(value / 1e6, abs=0.005)
        if step.attention_share is not None:
            assert float(cells["Attention, %"]) == pytest.approx(100 * step.attention_share, abs=0.05)
            assert cells["Parameters"] == "123,456"
            assert cells["Losses"] == "1.5000, 1.2500, 1.1250"
            n = step.context_length
            assert cells["Largest call"] == "\N{MULTIPLICATION SIGN}".join(map(str, (4, 16, n, n, 8, 8)))
        if step.status != "ok":
            assert step.reason is not None
            assert cells["Status"].endswith(f": {step.reason}")


def test_a_file_of_inference_alone_has_its_own_sections_and_no_others() -> None:
    page = page_of(make_inference())
    assert not headings(page) & MEASURED_ALONE
    assert {"Tokens a second", "Memory of whole models", "Everything measured"} <= headings(page)
    assert "No time was measured." not in page.text
    (caption,) = {figure.one("figcaption").text for figure in page.all("figure")[:1]}
    assert caption == "prefill 512 (figures)"
    assert "All: llama-160m, float32." in page.text


def test_the_first_words_and_the_ratios_are_those_of_the_rows() -> None:
    page = page_of(make_inference())
    words = page.all("p")[0].text
    assert "12 tests of inference of llama-160m with sdpa, eager and flash, on 2 threads." in words
    # (40 + 60) / (20 + 60) and, at depth 4000, (200 + 60) / (100 + 60).
    assert (
        "Decode, how many times faster than with sdpa: eager 0.57x to 0.71x, flash 1.25x to 1.62x." in words
    )
    assert "Peak memory over that with sdpa: eager 1.00x to 48.80x, flash 0.51x to 1.00x." in words
    (table,) = [table for table in page.all("table") if table.attributes["id"].startswith("faster")]
    rows = [[cell.text for cell in row.all("th") + row.all("td")] for row in table.one("tbody").all("tr")]
    # All of the rest costs the same here, so Amdahl's bound is reached.
    assert rows[0] == ["prefill 512", "0", "0.71x", "0.71x", "1.25x", "1.25x"]
    assert rows[-1] == ["decode 32", "4000", "0.57x", "0.57x", "1.62x", "1.62x"]


def test_a_row_that_is_not_right_has_no_ratio() -> None:
    page = page_of(every_kind())
    assert "11 of these gave no right result: 1 too large, 1 crashed, 1 wrong, 8 unsupported." in page.text
    (table,) = [table for table in page.all("table") if table.attributes["id"].startswith("faster")]
    assert [row.all("th")[1].text for row in table.one("tbody").all("tr")] == ["512", "1024", "2048"]


def test_files_of_every_kind_share_a_page() -> None:
    page = page_of(make_profile(), make_inference(), every_kind())
    assert {"Tokens a second", "Training steps", "Memory of whole models"} | MEASURED_ALONE <= headings(page)
    ids = [element.attributes["id"] for element in page.walk() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    assert {cells["File"] for cells in model_cells(page)} == {"two", "three"}
    assert "of a test beyond the weights and the cache before or of a step beyond the model" in page.text


def test_two_files_of_one_work_share_charts_and_tables() -> None:
    page = page_of(make_inference(), make_inference())
    assert len(model_cells(page)) == 24
    assert len(page.all("figure")) == 4
    assert [table.one("caption").text for table in page.all("table")[:2]] == [
        "How many times faster than with sdpa, one",
        "How many times faster than with sdpa, two",
    ]


def test_duels_of_attentions_have_verdicts_charts_and_tables() -> None:
    page = page_of(duel_of_arms(make_inference(), "sdpa", "flash", 0.02))
    assert {"Verdicts", "Tokens a second", "Everything measured"} <= headings(page)
    assert "4 duels of B against A: 4 inconclusive." in page.text
    assert [cells["Attention"] for cells in model_cells(page)] == ["sdpa", "flash"] * 4
    assert not [table for table in page.all("table") if table.attributes["id"].startswith("faster")]


def test_a_test_that_gave_nothing_makes_a_page_without_charts() -> None:
    failed = make_test("flash", "decode", 0, status="crashed", reason="ended by signal 9", time=None)
    page = page_of(replace(make_inference(), inference=[replace(failed, peak_bytes=None)]))
    assert not page.all("figure")
    assert model_cells(page)[0]["Status"] == "crashed: ended by signal 9"


def test_the_committed_training_steps_make_a_page(repository: Path) -> None:
    results = load(repository / "results" / "amd-epyc-zen4-2-cores-training.json")
    page = parse_page(report_page(name_sources(["steps.json"], [results])))
    assert len(model_cells(page)) == len(model_rows(results)) == 72
    assert len(page.all("figure")) == 12


def test_a_title_of_a_study_is_the_page_s() -> None:
    assert page_of(make_training(every_kind().training, title="Steps")).one("h1").text == "Steps"
