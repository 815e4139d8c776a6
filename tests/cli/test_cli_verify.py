"""`flashbench verify`: output, files and exit codes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import wrong_engines

from flashbench.dtypes import NARROWEST_FIRST

FEW = ("--case", "square-2", "--case", "nan-in-v-causal")
CommandLine = Callable[..., Any]


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    wrong_engines.install(packages)
    monkeypatch.syspath_prepend(packages)


def unasked(err: str) -> list[str]:
    """The lines on stderr without progress, which appears if kernels take long to compile."""
    return [line for line in err.splitlines() if not line.startswith("[")]


@pytest.mark.grid
def test_flash_and_standard_are_checked_by_default(flashbench: CommandLine) -> None:
    done = flashbench("verify", *FEW)
    assert done.code == 0
    assert done.out.startswith("8 cases of suite default, ")
    assert done.out.splitlines()[-2:] == ["flash: 8 ok of 8 cases", "standard: 8 ok of 8 cases"]
    assert unasked(done.err) == []


@pytest.mark.parametrize(
    ("engine", "case"),
    [
        ("WrongForward", "square-2-float32"),
        ("WrongDk", "square-2-float32"),
        ("LeakyNan", "nan-in-v-causal-float32"),
        ("Raising", "square-2-float32"),
    ],
)
def test_a_wrong_plug_in_fails_with_a_command_that_reproduces_just_it(
    flashbench: CommandLine, engine: str, case: str
) -> None:
    done = flashbench("verify", "--engine", "flash", "--engine", engine, *FEW)
    assert done.code == 1
    lines = done.out.splitlines()
    assert "flash: 8 ok of 8 cases" in lines
    (where,) = [i for i, line in enumerate(lines) if line.startswith(f"FAILED {engine} {case}: ")]
    words = shlex.split(lines[where + 1])
    assert words == ["flashbench", "verify", "--engine", engine, "--case", case]
    again = flashbench(*words[1:])
    assert again.code == 1
    assert any(line.endswith(" of 1 case") for line in again.out.splitlines())


def test_findings_are_printed_and_their_programs_written(flashbench: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    directory = tmp_path / "to" / "findings"
    words = ["--engine", "torch-math", "--case", "nan-in-v-causal-float32", "--scripts", str(directory)]
    done = flashbench("verify", *words, "--json", str(tmp_path / "all.json"))
    assert done.code == 1
    text = done.err  # --json leaves stdout alone
    assert "torch-math lets a NaN or an infinity reach results of queries" in " ".join(text.split())
    (script,) = directory.iterdir()
    assert f"  python {script}" in text.splitlines()
    compile(script.read_text(), str(script), "exec")
    (finding,) = json.loads((tmp_path / "all.json").read_text())["findings"]
    assert (finding["kind"], finding["cases"]) == ("spreads NaN", 1)


def test_programs_that_cannot_be_written_are_an_error(flashbench: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["--engine", "LeakyNan", "--case", "nan-in-v-causal-float32", "--scripts", str(tmp_path / "file")]
    done = flashbench("verify", *words)
    assert done.code == 2
    assert "error: --scripts cannot write to" in done.err


def test_unsupported_cases_are_counted_with_the_reason_and_do_not_fail(flashbench: CommandLine) -> None:
    done = flashbench("verify", "-e", "Choosy", "--case", "square-2", "--case", "square-5")
    assert done.code == 0
    assert "unsupported by Choosy: square-2-float16 and 7 more: no backward of 2" in done.out
    assert "Choosy: 8 forward ok of 8 cases" in done.out


def test_gradients_alone_of_an_engine_without_any_are_bad_input(flashbench: CommandLine) -> None:
    done = flashbench("verify", "-e", "Choosy", "--case", "square-2", "--direction", "bwd")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: nothing can be verified: Choosy: no backward of 2")


def test_verbose_shows_each_case(flashbench: CommandLine) -> None:
    done = flashbench("verify", "-e", "flash", "--case", "square-2", "--verbose")
    assert "square-2-float32" in done.out
    assert "square-2-float64" in done.out


def test_list_names_cases_and_runs_none(flashbench: CommandLine) -> None:
    everything = flashbench("verify", "--list")
    assert everything.code == 0
    assert "gqa-8-2-len113x203-bottom-right-float64" in everything.out.splitlines()
    assert flashbench("verify", "--list", "--case", "square-2").out == "".join(
        f"square-2-{dtype}\n" for dtype in NARROWEST_FIRST
    )


def test_a_suite_lists_and_runs_its_own_cases(flashbench: CommandLine) -> None:
    words = ("verify", "--suite", "torch", "--case", "b2-len267-h1-d8-full-train")
    name = "b2-len267-h1-d8-full-train"
    assert flashbench(*words, "--list").out == "".join(f"{name}-{dtype}\n" for dtype in NARROWEST_FIRST)
    done = flashbench(*words, "--engine", "flash", "--engine", "WrongDk")
    assert done.code == 1
    assert f"flashbench verify --suite torch --engine WrongDk --case {name}-float32" in done.out
    assert "flash: 4 ok of 4 cases" in done.out
    assert done.out.startswith("4 cases of suite torch, ")


def test_a_sample_is_of_the_cases_that_are_named_and_the_same_each_time(flashbench: CommandLine) -> None:
    words = ("verify", "--suite", "flash-attention", "--case", "len113x203-d32", "--list")
    sample = flashbench(*words, "--sample", "7").out.splitlines()
    assert len(sample) == 7
    assert all(name.startswith("len113x203-d32-") for name in sample)
    assert flashbench(*words, "--sample", "7").out.splitlines() == sample
    assert flashbench(*words, "--sample", "7", "--seed", "1").out.splitlines() != sample
    assert flashbench("verify", "--sample", "3", "-e", "flash").out.count("flash: 3 ok of 3 cases") == 1


def test_json_on_stdout_leaves_the_table_to_stderr(flashbench: CommandLine) -> None:
    done = flashbench("verify", "-e", "WrongDk", "--case", "square-2-float64", "--json", "-")
    assert done.code == 1
    document = json.loads(done.out)
    assert document["exit_code"] == 1
    assert document["results"][0]["verdict"] == "wrong"
    assert "FAILED WrongDk square-2-float64" in done.err


def test_json_in_a_file(flashbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "exactness.json"
    assert flashbench("verify", "-e", "flash", "--case", "square-2-float64", "--json", str(path)).code == 0
    assert json.loads(path.read_text())["results"][0]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["--case", "sqare-17"],
            "error: no case is named 'sqare-17' or begins so\nhint: did you mean 'square-17'?\n",
        ),
        (["--engine", "flush"], "error: unknown engine 'flush'; known: flash, standard, numpy, torch-flash"),
        (["--json", "/nowhere/at/all.json"], "error: "),
        (["--suite", "jax"], "error: unknown suite 'jax'; known: default, flash-attention, torch\n"),
        (["--suite", "torch", "--case", "square-1"], "error: no case is named 'square-1' or begins so\n"),
        (["--sample", "0"], "error: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flashbench: CommandLine, words: list[str], error: str) -> None:
    done = flashbench("verify", *words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(error)


def test_an_engine_named_twice_runs_once(flashbench: CommandLine) -> None:
    done = flashbench("verify", "-e", "flash", "-e", "flash", "--case", "square-2-float64")
    assert done.out.count("flash: 1 ok of 1 case") == 1
