"""Workflow commands and summary for GitHub Actions: exact syntax, and within its limits."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.report.github import (
    SUMMARY_BYTES,
    Annotation,
    annotate,
    append_summary,
    command_line,
    in_github_actions,
    report_to_github,
)

SLOWER = Annotation("error", "flash/fwd/N:512", "1.20x, above 5%")
UNSURE = Annotation("warning", "flash/fwd/N:1024", "cannot tell")


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A step of a workflow, with a file for its summary."""
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Not in a workflow, although the variable for the summary is set."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


def test_both_reach_github(summary: Path) -> None:
    out = io.StringIO()
    report_to_github("| a |\n| - |\n", [SLOWER, UNSURE], out=out)
    assert in_github_actions()
    assert summary.read_text() == "| a |\n| - |\n"
    assert out.getvalue() == (
        "::error title=flash/fwd/N%3A512::1.20x, above 5%25\n"
        "::warning title=flash/fwd/N%3A1024::cannot tell\n"
    )


def test_elsewhere_nothing_happens(elsewhere: Path) -> None:
    out = io.StringIO()
    report_to_github("text", [SLOWER], out=out)
    annotate([SLOWER], out=out)
    assert append_summary("text") is None
    assert not in_github_actions()
    assert out.getvalue() == ""
    assert not elsewhere.exists()


def test_a_runner_without_summaries_still_gets_annotations(summary: Path, monkeypatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    out = io.StringIO()
    report_to_github("text", [UNSURE], out=out)
    assert out.getvalue().count("\n") == 1


def test_the_summary_is_appended_after_a_blank_line(summary: Path) -> None:
    summary.write_text("before")
    assert append_summary("first\n") is None
    assert append_summary("| a |\n\n\n") is None
    assert summary.read_text() == "before\n\nfirst\n\n\n| a |\n"


def parse(line: str) -> tuple[str, str, str]:
    """Level, title and message, as actions/runner reads a command (ActionCommand.TryParseV2)."""
    assert line.startswith("::")
    assert line.endswith("\n")
    end = line.index("::", 2)
    level, properties = line[2:end].split(" ", 1)
    fields = dict(part.split("=", 1) for part in properties.split(","))
    assert fields.keys() == {"title"}
    codes = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}
    undone = [
        re.sub("%[0-9A-F]{2}", lambda code: codes[code[0]], text)
        for text in (fields["title"], line[end + 2 : -1])
    ]
    return level, *undone


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_text_survives_the_runner(title: str, message: str) -> None:
    line = command_line(Annotation("error", title, message))
    assert line.count("\n") == 1
    assert parse(line) == ("error", title, message)


@pytest.mark.parametrize(("count", "shown", "more"), [(10, 10, None), (11, 9, "2 more"), (100, 9, "91 more")])
def test_what_github_would_drop_is_counted(summary: Path, count: int, shown: int, more: str | None) -> None:
    out = io.StringIO()
    annotate([Annotation("error", f"n {index}", "slow") for index in range(count)] + [UNSURE], out=out)
    errors = [parse(line)[1] for line in out.getvalue().splitlines(keepends=True) if "::error" in line]
    assert errors == [f"n {index}" for index in range(shown)] + ([more] if more else [])
    assert len(errors) <= 10
    assert out.getvalue().endswith(command_line(UNSURE))


def test_a_summary_too_long_is_cut_at_a_line_and_says_so(summary: Path) -> None:
    row = "| größer | 1.20x |\n"
    summary.write_text("before\n")
    assert append_summary(row * 100_000) is None
    content = summary.read_bytes()
    assert SUMMARY_BYTES - len(row.encode()) <= len(content) <= SUMMARY_BYTES
    *rows, blank, last = content.decode().splitlines()
    assert rows[:3] == ["before", "", ""]
    assert set(rows[3:]) == {row.rstrip()}
    assert (blank, last) == ("", "_Cut off here: GitHub takes 1 MiB of summary from a step._")


@pytest.mark.parametrize("left", [0, 1, 30, 70])
def test_a_full_summary_stays_as_it_is_and_is_a_warning(summary: Path, left: int) -> None:
    before = b"x" * (SUMMARY_BYTES - left)
    summary.write_bytes(before)
    out = io.StringIO()
    report_to_github("| one row |\n" * 1000, [SLOWER], out=out)
    assert summary.read_bytes() == before
    level, title, message = parse(out.getvalue().splitlines(keepends=True)[0])
    assert (level, title) == ("warning", "no step summary")
    assert message.startswith("the step's summary has no room left")
    assert out.getvalue().endswith(command_line(SLOWER))


def test_a_summary_that_cannot_be_written_does_not_hide_the_verdict(summary: Path) -> None:
    summary.mkdir()
    out = io.StringIO()
    report_to_github("text", [SLOWER], out=out)
    assert out.getvalue().splitlines() == [
        "::warning title=no step summary::cannot append to the step's summary: Is a directory",
        command_line(SLOWER).rstrip(),
    ]
