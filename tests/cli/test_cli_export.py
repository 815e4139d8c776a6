"""`flashbench export` from its options to its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_exports import make_duel, small_profile, with_failures
from helpers.fake_results import make_measurement, make_results

from flashbench.cli.export import _format_words
from flashbench.report.markdown import results_markdown
from flashbench.results.export import FORMATS
from flashbench.results.record import Results
from flashbench.results.store import save

RENDER = {name: format_.render for name, format_ in FORMATS.items()} | {"markdown": results_markdown}


@pytest.fixture
def saved(tmp_path: Path):
    """The path of a file with these results."""

    def save_as_file(results: Results) -> str:
        path = tmp_path / "results.json"
        save(results, path)
        return str(path)

    return save_as_file


@pytest.mark.parametrize("format_", RENDER)
def test_formats_go_to_stdout_or_a_file(flashbench, saved, tmp_path: Path, format_: str) -> None:
    results = small_profile()
    name = saved(results)
    expected = RENDER[format_](results)
    assert flashbench("export", name, "--format", format_) == (0, expected, "")
    target = tmp_path / "out"
    done = flashbench("export", name, "-f", format_, "-o", str(target))
    assert done == (0, "", "")
    assert target.read_bytes() == expected.encode()


@pytest.mark.parametrize("format_", RENDER)
def test_a_duel_is_exported(flashbench, saved, format_: str) -> None:
    done = flashbench("export", saved(make_duel()), "--format", format_)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("side:a") == done.out.count("side:b")


def test_stdout_is_the_bytes_of_the_file_on_any_terminal(saved) -> None:
    name = saved(make_results([make_measurement("flash", 64)]))
    words = [sys.executable, "-m", "flashbench", "export", name, "--format"]
    for format_ in ("csv", "github-action-benchmark"):
        done = subprocess.run(
            [*words, format_], env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
        )
        assert done.stderr == b""
        assert (b"\xc2\xb1" if format_ == "github-action-benchmark" else b"\r\n") in done.stdout
        assert b"?" not in done.stdout


@pytest.mark.parametrize(
    ("format_", "line"),
    [
        (
            "pyperf",
            "left out 5 of 6 measurements, for which pyperf has no place: "
            "1 crashed, 1 wrong, 1 too large, 1 unsupported, 1 no time\n",
        ),
        (
            "google-benchmark",
            "left out 1 of 6 measurements, for which google-benchmark has no place: 1 no time\n",
        ),
        (
            "bmf",
            "left out 4 of 6 measurements, for which bmf has no place: "
            "1 crashed, 1 wrong, 1 too large, 1 unsupported\n",
        ),
        ("csv", ""),
        ("markdown", ""),
    ],
)
def test_what_is_left_out_is_counted_on_stderr(flashbench, saved, format_: str, line: str) -> None:
    done = flashbench("export", saved(with_failures()), "--format", format_)
    assert (done.code, done.err) == (0, line)


def test_an_unfinished_file_is_exported_and_said_to_be_one(flashbench, saved) -> None:
    name = saved(make_results([make_measurement("flash", 64)], complete=False))
    done = flashbench("export", name, "--format", "csv")
    assert (done.code, done.err) == (0, f"{name} is unfinished: more was asked for than it holds\n")
    assert done.out.count("\r\n") == 2


def test_nothing_to_write_is_an_error_and_writes_nothing(flashbench, saved, tmp_path: Path) -> None:
    name = saved(make_results([make_measurement("flash", 64, status="crashed", reason="signal 11")]))
    target = tmp_path / "out.json"
    done = flashbench("export", name, "--format", "bmf", "-o", str(target))
    assert done == (
        2,
        "",
        f"error: {name} has nothing that bmf has a place for: 1 crashed\n"
        "hint: csv and markdown have a place for every measurement\n",
    )
    assert not target.exists()


def test_a_file_without_measurements_is_an_error(flashbench, saved) -> None:
    name = saved(make_results([]))
    assert flashbench("export", name, "-f", "csv") == (2, "", f"error: {name} has no measurements\n")


def test_an_unknown_format_lists_the_known_ones(flashbench, saved) -> None:
    done = flashbench("export", saved(small_profile()), "--format", "xml")
    assert done.code == 2
    assert done.err == (
        "error: --format takes bmf, github-action-benchmark, google-benchmark, pyperf, csv or markdown, "
        "not 'xml'\n"
    )


def test_help_and_completion_name_every_format(flashbench) -> None:
    text = " ".join(flashbench("export", "--help").out.replace("│", " ").split())
    *most, last = RENDER
    assert f"{', '.join(most)} or {last}." in text
    assert _format_words() == list(RENDER)


def test_bad_files_are_named(flashbench, saved, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.json")
    assert flashbench("export", missing, "-f", "csv") == (
        2,
        "",
        f"error: results file {missing} is not found\n",
    )
    done = flashbench("export", saved(small_profile()), "-f", "csv", "-o", str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: cannot write {tmp_path}: it is a directory\n")


def test_the_target_is_checked_before_the_file_is_read(flashbench, tmp_path: Path) -> None:
    done = flashbench("export", "missing.json", "-f", "csv", "-o", str(tmp_path / "no" / "out.csv"))
    assert "there is no directory" in done.err


def test_the_format_must_be_given(flashbench, saved) -> None:
    done = flashbench("export", saved(small_profile()))
    assert done.code == 2
    assert done.err.startswith("error: missing option '--format'")


def test_json_formats_are_json(flashbench, saved) -> None:
    name = saved(small_profile())
    for format_ in ("bmf", "github-action-benchmark", "google-benchmark", "pyperf"):
        assert json.loads(flashbench("export", name, "-f", format_).out)
