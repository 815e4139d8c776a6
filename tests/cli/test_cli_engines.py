"""`flashbench engines` and a plug-in in use, from the example package as pip installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from helpers import plugins

from flashbench.studies import engine_list
from flashbench.studies.engine_list import EngineFacts
from flashbench.studies.engine_probe import SHAPES

CommandLine = Callable[..., Any]
# Look for pip by its metadata. Looking for the module makes setuptools think that pip runs, and it then
# restores Python's deprecated distutils for this process.
_installed = {distribution.name for distribution in distributions()}
needs_pip = pytest.mark.skipif(not {"pip", "setuptools"} <= _installed, reason="needs pip and setuptools")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory where the example plug-in and two broken ones are installed."""
    directory = tmp_path_factory.mktemp("plugin")
    plugins.install_example(directory)
    installed = directory / "packages"
    plugins.install(installed, {name: plugins.BROKEN[name] for name in ("segfault", "exits")})
    return installed


@pytest.fixture
def run(packages: Path, repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in a process that finds those packages."""

    def flashbench(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(repository), str(packages)])
        return subprocess.run(
            [sys.executable, "-m", "flashbench", *words],
            env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "80"} | variables,
            capture_output=True,
            text=True,
        )

    return flashbench


@needs_pip
def test_the_example_plug_in_is_listed_beside_broken_ones(run) -> None:
    done = run("engines", "--json", "-")
    assert done.returncode == 0
    facts = {each["name"]: each for each in json.loads(done.stdout)}
    slowed = facts["slowed"]
    assert (slowed["state"], slowed["library"], slowed["version"]) == ("ready", "flashbench-slowed", "1.0")
    assert set(slowed["lacks"]).isdisjoint(SHAPES)
    assert facts["segfault"]["state"] == facts["exits"]["state"] == "broken"
    assert facts["flash"]["state"] == "ready"
    lines = done.stderr.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith("slowed"))
    assert " ".join(row.split()) == "slowed flashbench-slowed 1.0 f32 f64 f32 f64 yes any yes yes"
    (segfault,) = [line for line in lines if line.startswith("segfault") and "SIGSEGV" in line]
    assert segfault.split()[1:5] == ["broken:", "killed", "by", "SIGSEGV"]


@needs_pip
def test_the_example_plug_in_is_measured(run, tmp_path: Path) -> None:
    path = tmp_path / "slowed.json"
    done = run(
        *("profile", "-e", "flash", "-e", "slowed", "-n", "64", "--rounds", "1", "--repeats", "1"),
        *("--no-memory", "--json", str(path)),
        FLASHBENCH_SLOWED_BY="0.5",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["measurements"]
    assert [(row["engine"], row["status"]) for row in rows] == [("flash", "ok"), ("slowed", "ok")]


@pytest.mark.grid
@needs_pip
def test_the_example_plug_in_is_verified(run) -> None:
    done = run("verify", "-e", "slowed", "--case", "square-2", "--case", "gqa-8-2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("slowed: ")
    assert " ok of " in done.stdout.splitlines()[-1]


@needs_pip
def test_an_engine_that_cannot_be_made_says_why(run) -> None:
    done = run("verify", "-e", "slowed", "--case", "square-2", FLASHBENCH_SLOWED_BY="a bit")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: engine 'slowed' of flashbench_slowed:SlowedEngine is broken: ")
    assert "ValueError: could not convert string to float: 'a bit'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs_pip
def test_a_plug_in_that_kills_its_process_does_not_kill_ours(run) -> None:
    done = run("verify", "-e", "segfault", "--case", "square-2")
    assert done.returncode == 2
    assert "is broken: killed by SIGSEGV" in done.stderr


FOUND = [
    EngineFacts(name="flash", state="ready", library="numba", version="0.61.0", summary="tiled"),
    EngineFacts(name="mine", state="broken", reason="killed by SIGSEGV", loads=False),
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timeouts with which the engine list was called; the list itself is made up."""
    timeouts: list[float] = []

    def list_engines(*, timeout_s: float) -> list[EngineFacts]:
        timeouts.append(timeout_s)
        return FOUND

    monkeypatch.setattr(engine_list, "list_engines", list_engines)
    return timeouts


def test_the_list_is_printed_and_a_broken_engine_is_no_failure(flashbench, found: list[float]) -> None:
    done = flashbench("engines", "--timeout", "7.5")
    assert (done.code, done.err) == (0, "")
    assert "mine   broken: killed by SIGSEGV" in done.out
    assert found == [7.5]


def test_json_goes_to_a_file_or_alone_to_stdout(flashbench, found: list[float], tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    assert "tiled" in flashbench("engines", "--json", str(path)).err
    done = flashbench("engines", "--json", "-")
    assert done.out == path.read_text()
    assert [each["name"] for each in json.loads(done.out)] == ["flash", "mine"]
    assert "tiled" in done.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--timeout", "soon"], "error: --timeout takes seconds above 0"),
        (["--json", "/nowhere/at/all.json"], "error: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flashbench, words: list[str], error: str) -> None:
    done = flashbench("engines", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(error)


def test_verify_all_runs_what_is_ready_and_says_what_is_not(
    flashbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_list, "list_engines", lambda **_: FOUND)
    done = flashbench("verify", "-e", "all", "--case", "square-2-float64")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "flash: 1 ok of 1 case"
    assert done.err == "mine is left out: broken: killed by SIGSEGV\n"
