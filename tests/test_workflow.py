"""docs/github-actions.yml is a valid workflow, and its command lines are valid for today's commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from flashbench.cli.app import make_app
from flashbench.results.export import FORMATS

TEXT = (Path(__file__).parent.parent / "docs" / "github-actions.yml").read_text(encoding="utf-8")
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
LINES = [line.strip() for step in STEPS for line in step.get("run", "").splitlines()]
COMMANDS = dict.fromkeys(line for line in LINES if line.startswith("flashbench "))
APP: Any = typer.main.get_command(make_app())


def words_of(line: str) -> list[str]:
    """The words of a command line, without its redirections."""
    return shlex.split(line.partition(" >")[0])[1:]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_parse(line: str) -> None:
    words = words_of(line)
    command = APP.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        assert context.params


def test_there_is_a_duel_and_a_history() -> None:
    assert {words_of(line)[0] for line in COMMANDS} == {"duel", "profile", "export"}
    formats = {match[1] for line in COMMANDS if (match := re.search(r"--format (\S+)", line))}
    assert formats == {"markdown", "github-action-benchmark", "bmf"}
    assert formats <= {*FORMATS, "markdown"}


def test_the_workflow_has_what_github_asks_of_one() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads `on` as a truth value
    assert triggers.keys() == {"pull_request", "push"}
    for job in WORKFLOW["jobs"].values():
        assert re.fullmatch(r"github\.event_name == '(pull_request|push)'", job["if"])
        assert job["runs-on"] == "ubuntu-latest"
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)


def test_files_are_read_under_the_names_they_are_written() -> None:
    written = {match[1] for line in LINES if (match := re.search(r"(?:-o|--save) (\S+)", line))}
    read = {step["with"]["output-file-path"] for step in STEPS if "output-file-path" in step.get("with", {})}
    read |= {match[1] for line in LINES if (match := re.search(r"(?:export|--file) (\S+)", line))}
    assert read == written
