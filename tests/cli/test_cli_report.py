"""`flashbench report` and `profile --plot` from their options to their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from helpers.fake_inference import make_inference
from helpers.fake_results import make_measurement, make_results
from helpers.fake_training import every_kind
from helpers.html_page import parse_page

from flashbench.results.store import save


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.json"
    save(make_results([make_measurement("flash", 512)]), path)
    return str(path)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Pretend that a package is not installed."""

    def pretend(package: str) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            "flashbench.report.charts.find_spec", lambda name: None if name == package else found(name)
        )

    return pretend


def test_report_writes_the_page_and_says_so(flashbench, file: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = flashbench("report", file, "-o", str(page))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{page}: ")
    assert done.out.endswith(" KiB, 1 measurement of 1 file\n")
    assert parse_page(page.read_text(encoding="utf-8")).one("h1").text == "mine"


def test_the_page_is_report_html_unless_named(flashbench, file: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert flashbench("report", file).code == 0
    assert Path("report.html").read_bytes().startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["other.json", "page", "-"])
def test_a_name_that_is_no_page_is_refused(flashbench, file: str, name: str) -> None:
    done = flashbench("report", file, "-o", name)
    assert done.code == 2
    assert done.err == f"error: --output takes a name that ends in .html, not {name!r}\n"


def test_a_bad_file_leaves_the_old_page(flashbench, file: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("the old page")
    bad = tmp_path / "bad.json"
    bad.write_text("[]")
    done = flashbench("report", file, str(bad), "-o", str(page))
    assert done.code == 2
    assert done.err.startswith(f"error: {bad} is not a results file of flashbench")
    assert page.read_text() == "the old page"


def test_a_page_that_cannot_be_written_is_told_first(flashbench, tmp_path: Path) -> None:
    done = flashbench("report", "missing.json", "-o", str(tmp_path / "none" / "page.html"))
    assert done.code == 2
    assert "there is no directory" in done.err


def test_no_file_and_a_file_given_twice_are_refused(flashbench, file: str) -> None:
    assert flashbench("report").err.startswith("error: missing argument 'FILE")
    done = flashbench("report", file, file)
    assert done.code == 2
    assert done.err == f"error: {file} is given 2 times: once is enough\n"


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_one_line_and_how_to_get_it(flashbench, without, file: str, package: str) -> None:
    without(package)
    done = flashbench("report", file)
    assert done.code == 2
    assert done.err == (
        f"error: charts need the package {package!r}, which is not installed\n"
        "hint: pip install 'flashbench[plot]'\n"
    )


def test_files_of_whole_models_make_a_page_too(flashbench, file: str, tmp_path: Path) -> None:
    tokens, steps, page = (tmp_path / name for name in ("tokens.json", "steps.json", "page.html"))
    save(make_inference(), tokens)
    save(every_kind(), steps)
    done = flashbench("report", str(tokens), str(steps), file, "-o", str(page))
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(", 37 measurements of 3 files\n")
    assert parse_page(page.read_text(encoding="utf-8")).one("h1").text == "tokens, steps, mine"


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".SVG", b"<?xml")])
def test_profile_plots_beside_its_table(
    flashbench, fake_run, tmp_path: Path, suffix: str, start: bytes
) -> None:
    chart = tmp_path / f"chart{suffix}"
    done = flashbench("profile", "-n", "128,512", "--plot", str(chart))
    assert done.code == 0
    assert "Seq" in done.out
    assert chart.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["chart.pdf", "chart", "-", "chart.svg.gz"])
def test_other_charts_are_refused_before_the_run(flashbench, fake_run, name: str) -> None:
    done = flashbench("profile", "--plot", name)
    assert done.code == 2
    assert done.err == f"error: --plot takes a name that ends in .svg or .png, not {name!r}\n"
    assert fake_run.studies == []


def test_a_missing_extra_is_told_before_the_run(flashbench, fake_run, without, tmp_path: Path) -> None:
    without("matplotlib")
    done = flashbench("profile", "--plot", str(tmp_path / "chart.svg"))
    assert done.code == 2
    assert done.err.endswith("hint: pip install 'flashbench[plot]'\n")
    assert fake_run.studies == []


def test_a_chart_in_the_place_of_the_results_is_refused(flashbench, fake_run, tmp_path: Path) -> None:
    path = str(tmp_path / "out.svg")
    done = flashbench("profile", "--plot", path, "--save", path)
    assert done.code == 2
    assert done.err == f"error: --plot is {path}, the file of the results: give it a name of its own\n"
    assert fake_run.studies == []


def test_a_run_without_a_time_makes_no_chart_and_says_so(flashbench, fake_run, tmp_path: Path) -> None:
    fake_run.status = "crashed"
    chart = tmp_path / "chart.svg"
    done = flashbench("profile", "-n", "128", "--plot", str(chart))
    assert done.code == 1
    assert done.out.endswith("no chart: nothing was timed\n")
    assert not chart.exists()


def test_files_without_a_measurement_make_no_page(flashbench, file: str, tmp_path: Path) -> None:
    empty, machine, page = (tmp_path / name for name in ("empty.json", "machine.json", "page.html"))
    save(make_results([]), empty)
    save(make_results([], kind="machine"), machine)
    done = flashbench("report", str(empty), "-o", str(page))
    assert (done.code, done.err) == (2, f"error: {empty}: no measurement in it\n")
    assert not page.exists()
    assert flashbench("report", str(machine), "-o", str(page)).code == 0
    assert flashbench("report", str(empty), file, "-o", str(page)).code == 0
