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
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]
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


def test_the_readme_names_every_command_and_the_page_of_commands_shows_each() -> None:
    names = set(get_command(make_app()).commands)
    assert set(re.findall(r"^\| `flashbench (\w+)", README.read_text("utf-8"), re.MULTILINE)) == names
    text = (REPOSITORY / "docs" / "command-line.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {words[1] for block in blocks for words in commands(block)} == names


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text("utf-8")
    assert len(text.split()) <= 1200
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (REPOSITORY / target).is_file(), target


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
