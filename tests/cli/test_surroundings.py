"""The command in odd surroundings: stray files, file names that are not valid text, closed streams, a user
without a home directory.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_results import make_measurement, make_results
from helpers.html_page import parse_page

from flashbench.engines.flash import tuned
from flashbench.problem import AttentionProblem
from flashbench.results.store import load, save
from flashbench.studies.noise_floor import NoiseFloor, keep_floor, machine_floor
from flashbench.studies.train import workload
from flashbench.studies.train.study import TrainPoint, TrainStudy


def test_started_by_its_module_it_imports_nothing_of_the_current_directory(tmp_path: Path) -> None:
    for name in ("json", "re", "typing", "msgspec", "typer"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a module of the current directory')")
    command = [sys.executable, "-m", "flashbench", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A results file with a Latin-1 name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"r\xe9sultat.json")
    try:
        save(make_results([make_measurement("flash", 512)]), name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 alone")
    return name


def test_names_that_are_not_utf8_are_read_and_named(flashbench, results: str) -> None:
    for words in (["--format", "json"], ["--json", "-"]):
        document = json.loads(flashbench("compare", results, results, *words).out)
        assert r"r\xe9sultat.json" in document.values()
    shown = flashbench("compare", results, results, "--format", "markdown").out
    assert r"- base: r\\xe9sultat.json" in shown  # as Markdown writes a backslash
    refused = flashbench("export", os.fsdecode(b"\xff.json"), "--format", "csv")
    assert refused == (2, "", "error: results file \\xff.json is not found\n")


@pytest.mark.parametrize("kind", ["csv", "markdown", "bmf", "pyperf", "google-benchmark"])
def test_names_that_are_not_utf8_are_exported_to(flashbench, results: str, kind: str) -> None:
    name = os.fsdecode(b"\xe9")
    assert flashbench("export", results, "--format", kind, "-o", name).code == 0
    assert Path(name).stat().st_size


def test_a_report_is_headed_by_a_name_that_is_not_utf8(flashbench, results: str) -> None:
    name = os.fsdecode(b"\xe9.html")
    done = flashbench("report", results, "-o", name)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(r"\xe9.html: ")
    assert parse_page(Path(name).read_text(encoding="utf-8")).one("h1").text == r"r\xe9sultat"


def test_study_files_and_results_take_names_that_are_not_utf8(flashbench, fake_run, results: str) -> None:
    config, saved, also = (os.fsdecode(name) for name in (b"\xe9.toml", b"\xe8.json", b"\xea.json"))
    Path(config).write_text("seq_lens = [64]")
    done = flashbench("profile", "--config", config, "--save", saved, "--json", also)
    assert done.code == 0
    assert fake_run.studies[0].seq_lens == [64]
    assert load(saved) == load(also)


def test_a_csv_whose_name_is_not_utf8_reaches_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "TrainingWorkload", lambda point, study: study.csv)
    study = TrainStudy(csv=os.fsdecode(b"\xe9.csv"))
    arguments = workload.arguments(TrainPoint("patchtst", 64, "flash"), study)
    assert workload.build(**json.loads(json.dumps(arguments))) == study.csv


def in_shell(*words: str, ending: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in bash, with these words after it."""
    command = shlex.join([sys.executable, "-m", "flashbench", *words])
    line = f"set -o pipefail; {command} {ending}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_as_dev_null(closed: str) -> None:
    code, out, err = in_shell("verify", "--list", ending=closed)
    assert (code, err) == (0, "")
    assert bool(out) == (closed == "2>&-")


@pytest.mark.parametrize("words", [["engines", "--json", "-"], ["profile", "--json", "-"]])
def test_results_for_a_closed_stdout_are_refused_before_anything_runs(words: list[str]) -> None:
    code, _, err = in_shell(*words, ending=">&-")
    assert code == 2
    assert err == "error: '-' asks for output on stdout, which is closed\nhint: name a file\n"


@pytest.mark.parametrize(("kind", "code"), [("table", 0), ("markdown", 0), ("json", 0)])
def test_a_reader_that_leaves_is_no_verdict(repository: Path, kind: str, code: int) -> None:
    documented = str(repository / "results" / "documented.json")
    words = ["compare", documented, documented, "--format", kind]
    assert in_shell(*words, ending="| true") == (141, "", "")
    assert in_shell(*words, ending="> /dev/null") == (code, "", "")


def test_a_chart_is_written_though_the_reader_of_the_table_leaves(
    flashbench, fake_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("flashbench.report.profile.profile_report", leave)
    chart = tmp_path / "chart.svg"
    assert flashbench("profile", "-n", "64,128", "--plot", str(chart)).code == 141
    assert chart.stat().st_size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    code, _, err = in_shell("verify", "--list", ending="> /dev/full")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err


PLACES = {"missing": "missing/x.svg", "long": 300 * "x" + ".svg", "directory": "there.svg"}
WRITERS = {
    "profile --save": ["profile", "--save"],
    "profile --json": ["profile", "--json"],
    "profile --plot": ["profile", "--plot"],
    "sweep": ["sweep", "--save"],
    "duel": ["duel", "flash", "standard", "--save"],
    "train": ["train", "--models", "patchtst", "--json"],
    "verify": ["verify", "--json"],
    "engines": ["engines", "--json"],
    "machine": ["machine", "--json"],
    "tune": ["tune", "--json"],
    "compare": ["compare", "no.json", "no.json", "--json"],
    "export": ["export", "no.json", "--format", "csv", "-o"],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_what_cannot_be_written_is_refused_before_anything_runs(
    flashbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], place: str
) -> None:
    def start(*args: object, **named: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr("flashbench.measure.worker.subprocess.Popen", start)
    monkeypatch.chdir(tmp_path)
    Path(PLACES["directory"]).mkdir()
    done = flashbench(*words, PLACES[place])
    assert done.code == 2
    assert done.err.startswith(f"error: cannot write {PLACES[place]}: ")


@pytest.fixture
def _no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("flashbench.codegen.compiled.user_cache_path", unknown)
    for variable in ("FLASHBENCH_CACHE_DIR", "FLASHBENCH_TUNED_DIR"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.usefixtures("_no_home")
@pytest.mark.parametrize("option", [(), ("--show",), ("--reset",)])
def test_tuning_without_a_home_says_where_it_can_be_kept(flashbench, option: tuple[str, ...]) -> None:
    done = flashbench("tune", *option)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: there is no place for tuned block sizes: the user has no home")
    assert done.err.endswith("hint: set FLASHBENCH_CACHE_DIR to a directory that can be written\n")


@pytest.mark.usefixtures("_no_home")
def test_without_a_home_no_block_sizes_are_tuned_and_no_noise_floor_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuned, "_read", None)
    problem = AttentionProblem.of(512)
    assert tuned.tuned_blocks(problem, "fwd", "fma") is None
    floor = NoiseFloor(
        cpu="any",
        threads=1,
        problem=problem,
        engine="flash",
        direction="fwd",
        floor=0.02,
        rounds=7,
        measured="2026-11-28T20:00:00+00:00",
    )
    with pytest.warns(RuntimeWarning, match="noise floor cannot be kept.*the user has no home"):
        assert not keep_floor(floor)
    assert machine_floor("any", 1) is None
