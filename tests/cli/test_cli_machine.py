"""`flashbench machine` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_results import MACHINE, make_results
from msgspec.structs import replace

from flashbench.results.record import Results
from flashbench.results.store import load
from flashbench.studies import machine as study
from flashbench.studies.progress import Progress

CommandLine = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of the study's calls; the study returns a made-up machine."""
    calls: list[dict[str, Any]] = []

    def inspect(
        *, command: Sequence[str], quick: bool, on_progress: Callable[[Progress], None], **options: Any
    ) -> Results:
        calls.append({"command": command, "quick": quick})
        on_progress(Progress(0, 1, "what else runs"))
        machine = replace(MACHINE, others_cores=0.8)
        return replace(make_results([], kind="machine", machine=machine), warnings=["sit down"])

    monkeypatch.setattr(study, "inspect_machine", inspect)
    return calls


def test_table_goes_to_stdout_and_progress_to_stderr(
    flashbench: CommandLine, asked: list[dict[str, Any]]
) -> None:
    done = flashbench("machine")
    assert done.code == 0
    assert "Example CPU 9000" in done.out
    assert "- sit down" in done.out
    assert "what else runs" in done.err
    assert asked == [{"command": ["flashbench", "machine"], "quick": False}]


def test_quick_is_passed_on(flashbench: CommandLine, asked: list[dict[str, Any]]) -> None:
    assert flashbench("machine", "--quick").code == 0
    assert asked[0]["quick"]


@pytest.mark.usefixtures("asked")
def test_json_on_stdout_is_alone_there(flashbench: CommandLine) -> None:
    done = flashbench("machine", "--json", "-")
    document = json.loads(done.out)
    assert document["kind"] == "machine"
    assert document["warnings"] == ["sit down"]
    assert "Example CPU 9000" in done.err


@pytest.mark.usefixtures("asked")
def test_json_file_is_a_results_file(flashbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    done = flashbench("machine", "--json", str(path))
    assert done.out == ""
    assert load(path).machine.others_cores == 0.8


def test_place_that_cannot_be_written_is_refused_at_once(
    flashbench: CommandLine, asked: list[dict[str, Any]]
) -> None:
    done = flashbench("machine", "--json", "/nowhere/at/all.json")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert asked == []


def test_real_machine_is_described_without_measuring(flashbench: CommandLine) -> None:
    done = flashbench("machine", "--quick")
    assert done.code == 0
    assert "not measured (--quick)" in done.out
    assert "None" not in done.out


def test_memory_detail_prints_memory_three_ways(flashbench: CommandLine, fake_run: object) -> None:
    done = flashbench("profile", "--seq-lens", "128", "--memory-detail")
    assert done.code == 0
    assert "Memory, three ways" in done.out
    assert "Memory, three ways" not in flashbench("profile", "--seq-lens", "128").out


def test_memory_detail_needs_memory(flashbench: CommandLine) -> None:
    done = flashbench("profile", "--no-memory", "--memory-detail")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --memory-detail shows what --no-memory leaves out: give one of them\n"


@pytest.mark.parametrize(("quick", "code"), [(False, 1), (True, 0)])
def test_a_machine_of_which_nothing_could_be_measured_is_no_success(
    flashbench: CommandLine, monkeypatch: pytest.MonkeyPatch, quick: bool, code: int
) -> None:
    def inspect(**_: Any) -> Results:
        found = make_results([], kind="machine", machine=replace(MACHINE, peak_gflops={}))
        return replace(found, config={"threads": 2, "quick": quick})

    monkeypatch.setattr(study, "inspect_machine", inspect)
    assert flashbench("machine", *(["--quick"] if quick else [])).code == code
