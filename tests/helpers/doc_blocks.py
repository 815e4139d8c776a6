"""Runs the code blocks of the documentation. Sybil finds the blocks; this module runs each kind.

- python: run. The blocks of a page share their names. A line `print(...)  # text` must print that text.
- sh: each `flashbench ...` runs in the page's own directory, which holds the repository's configs/ and
  results/.
- After `<!-- only parsed: REASON -->`, a program is compiled and command lines are parsed; neither runs.
- toml: a study file, if it has a kind. json, yaml: must parse.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser
from typer.main import get_command

from flashbench.cli.app import make_app
from flashbench.cli.duel_from import given_with_file
from flashbench.cli.infer_settings import build_infer_study
from flashbench.cli.settings import build_duel, build_study, load_study
from flashbench.cli.train_settings import build_train_study
from flashbench.errors import EngineError

ONLY_PARSED = re.compile(r"<!-- only parsed: (?P<reason>\S.*) -->\s*\Z")
MISSING = "package that is not installed"  # in a page's names
OPTIONAL = {"dask", "torch", "transformers", "neuralforecast", "vega_datasets"}
_ASSIGNMENT = re.compile(r"[A-Z_]+=")


def only_parsed(example: Example) -> bool:
    return ONLY_PARSED.search(example.document.text[: example.region.start]) is not None


def python(example: Example) -> None:
    if example.namespace.get(MISSING):
        return  # it may use names of the block that could not run
    line = example.line + example.parsed.line_offset
    code = compile("\n" * line + example.parsed, example.path, "exec", dont_inherit=True)
    if only_parsed(example):
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, example.namespace)
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL:
            raise
        example.namespace[MISSING] = error.name
        return
    except EngineError as error:
        if "pip install" not in (error.hint or ""):
            raise
        example.namespace[MISSING] = str(error)
        return
    said = [text for line in example.parsed.splitlines() for text in re.findall(r"^print\(.*  # (.*)", line)]
    if said:
        assert printed.getvalue().splitlines() == said


def sh(example: Example) -> None:
    for words in commands(example.parsed):
        if only_parsed(example):
            read(words[1:])
        else:
            run(words)


def toml(example: Example) -> None:
    if re.search(r"^kind =", example.parsed, re.MULTILINE):
        path = Path("study-on-page.toml")
        path.write_text(example.parsed, encoding="utf-8")
        load_study(path)


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a block that call flashbench, split into words, without the words before it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        start = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
        if words[start : start + 1] == ["flashbench"]:
            yield words[start:]
        elif words[start : start + 1] == ["python"] and words[start + 1].endswith(".py"):
            assert (Path(__file__).parents[2] / words[start + 1]).is_file(), line


def read(arguments: list[str]) -> None:
    """Parse the command line with Typer and its study, so that any mistake in it raises."""
    group = get_command(make_app())
    name, *rest = arguments
    with group.make_context("flashbench", [name, *rest]) as context:
        command = group.get_command(context, name)
        assert command is not None, f"no command is called {name}"
        with command.make_context(name, rest, parent=context) as parsed:
            if name == "duel" and parsed.params["from_"] is not None:
                given_with_file(parsed)
            elif name == "duel":
                build_duel(parsed.params)
            elif name in ("profile", "sweep"):
                build_study(name, parsed.params)
            elif name == "train":
                build_train_study(parsed.params)
            elif name == "infer" and not any(word.startswith("./") for word in rest):  # a model of the reader
                build_infer_study(parsed.params)


def run(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    verdicts = {3} if words[1] in ("compare", "duel") else set()  # 3: inconclusive
    assert done.returncode in {0} | verdicts, (
        f"{shlex.join(words)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )


PAGES = Sybil(
    parsers=[
        CodeBlockParser("python", python),
        CodeBlockParser("sh", sh),
        CodeBlockParser("toml", toml),
        CodeBlockParser("json", lambda example: json.loads(example.parsed) and None),
        CodeBlockParser("yaml", lambda example: yaml.safe_load(example.parsed) and None),
    ],
    path=os.fspath(Path(__file__).parents[2]),
)


def page(path: Path) -> Document:
    return PAGES.parse(path)
