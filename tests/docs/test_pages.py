"""Every code block of README and docs/ does what it shows."""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

import pytest
from helpers.doc_blocks import MISSING, commands, page, read
from typer.main import get_command

from flashbench.cli.app import make_app

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
LANGUAGES = {"python", "sh", "toml", "json", "yaml", ""}  # the last one is output and drawings


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.grid
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_blocks_do_what_they_show(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("configs", "results", "docs"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(REPOSITORY), prepend=os.pathsep)
    if "torch" in sys.modules:
        from flashbench.integrations.torch import reset_stats

        reset_stats()
    document = page(path)
    for example in document.examples():
        example.evaluate()
    if MISSING in document.namespace:
        pytest.skip(f"the rest of its Python needs {document.namespace[MISSING]}")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_checked(path: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}, "a block is not closed"


def test_the_readme_shows_every_command() -> None:
    shown = {
        words[1]
        for block in re.findall(r"^```sh\n(.*?)^```", PAGES[0].read_text("utf-8"), re.DOTALL | re.MULTILINE)
        for words in commands(block)
    }
    assert shown == set(get_command(make_app()).commands)


@pytest.mark.parametrize("name", ["", *get_command(make_app()).commands])
def test_examples_in_help_can_be_read(name: str) -> None:
    group = get_command(make_app())
    found = list(commands((group.commands[name] if name else group).epilog.replace("\\[", "[")))
    assert found
    for words in found:
        read(list(itertools.takewhile(lambda word: word not in (">", "|"), words[1:])))


@pytest.mark.parametrize(
    "words",
    [
        ["profile", "--no-such-option"],
        ["profile", "--rounds", "many"],
        ["duel", "flash"],  # against what?
        ["no-such-command"],
    ],
)
def test_a_wrong_command_line_is_found_without_running_it(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|must be|no command|many|are both"):
        read(words)


def test_commands_are_found_behind_prompts_and_settings() -> None:
    text = "$ A=1 B='' flashbench tune --show  # a word\npip install x\nflashbench duel a \\\n  b\n"
    assert list(commands(text)) == [["flashbench", "tune", "--show"], ["flashbench", "duel", "a", "b"]]
