"""The command line itself: help, errors, exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from flashbench.cli import app
from flashbench.errors import FlashbenchError

COMMANDS = [command.callback.__name__ for command in app.make_app().registered_commands]
HEAVY = ["numpy", "numba", "llvmlite", "scipy", "torch", "msgspec"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from flashbench.cli.app import main; code = main(sys.argv[1:]); "
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(flashbench, command: str) -> None:
    done = flashbench(command, "--help")
    assert done.code == 0
    assert f"flashbench {command}" in done.out.split("Examples:")[1]
    assert flashbench(command, "-h").out == done.out


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", ["80", "120"])
def test_help_fits_its_terminal(flashbench, monkeypatch, command: str, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    done = flashbench(command, "--help")
    assert max(map(len, done.out.splitlines())) <= int(width)
    assert "…" not in done.out


def test_version(flashbench) -> None:
    assert flashbench("--version") == (0, f"flashbench {version('flashbench')}\n", "")


def test_no_command_shows_the_commands_and_fails(flashbench) -> None:
    done = flashbench()
    assert done.code == 2
    assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["frobnicate"], "error: no such command 'frobnicate'"),
        (["--frobnicate"], "error: no such option: --frobnicate"),
        (["profile", "--frobnicate"], "error: no such option: --frobnicate"),
        (["profile", "--batch"], "error: option '--batch' requires an argument"),
        (["profile", "surplus"], "error: got unexpected extra argument"),
        (["compare", "one.json"], "error: compare takes two files, BASE.json and NEW.json, not 1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_hint(flashbench, words: list[str], error: str) -> None:
    done = flashbench(*words)
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[0].startswith(error)
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2


def failing_with(error: BaseException):
    """A command that raises the error."""

    def profile() -> None:
        raise error

    return profile


def test_an_error_of_ours_is_its_line_its_hint_and_its_code(flashbench, monkeypatch) -> None:
    error = FlashbenchError("seqlen must be\nat least 1, not 0", hint="try 1")
    error.exit_code = 3
    monkeypatch.setattr(app.profile, "profile", failing_with(error))
    assert flashbench("profile") == (3, "", "error: seqlen must be at least 1, not 0\nhint: try 1\n")


@pytest.mark.parametrize("words", [["--debug", "profile"], ["profile", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(flashbench, monkeypatch, words: list[str]) -> None:
    monkeypatch.setattr(app.profile, "profile", failing_with(FlashbenchError("no")))
    done = flashbench(*words)
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert done.err.endswith("FlashbenchError: no\nerror: no\n")


def test_a_bug_is_told_from_a_mistake_of_the_user(flashbench, monkeypatch) -> None:
    monkeypatch.setattr(app.profile, "profile", failing_with(ZeroDivisionError("division by zero")))
    done = flashbench("profile")
    assert done.code == 70
    assert done.err.splitlines()[0] == "error: unexpected ZeroDivisionError: division by zero"
    assert "Traceback" not in done.err


def test_a_full_disk_is_no_bug(flashbench, monkeypatch) -> None:
    monkeypatch.setattr(app.profile, "profile", failing_with(OSError(28, "No space left on device")))
    assert flashbench("profile") == (2, "", "error: [Errno 28] No space left on device\n")


def test_ctrl_c_is_one_line_and_130(flashbench, monkeypatch) -> None:
    monkeypatch.setattr(app.profile, "profile", failing_with(KeyboardInterrupt()))
    assert flashbench("profile") == (130, "", "interrupted\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m flashbench profile --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_terminal_without_unicode_gets_question_marks(repository, tmp_path) -> None:
    documented = str(shutil.copy(repository / "results" / "documented.json", tmp_path / "résultats.json"))
    done = subprocess.run(
        [sys.executable, "-m", "flashbench", "compare", documented, documented, "--format", "markdown"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"r?sultats.json" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_can_be_shown(shell: str) -> None:
    words = [sys.executable, "-c", "from flashbench.cli.app import main; main()"]
    done = subprocess.run([*words, "--show-completion", shell], capture_output=True, text=True, check=True)
    assert "_FLASHBENCH_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pro", ["profile"]),
        ("profile --engine t", ["torch-flash", "torch-math"]),
        ("verify --engine a", ["all"]),
        ("profile --dtype ", ["float64", "float32", "bfloat16", "float16"]),
        ("sweep --causal ", ["no", "yes", "both"]),
        ("sweep --block-s", ["--block-sizes"]),
        ("compare --format m", ["markdown"]),
    ],
)
def test_words_are_completed(typed: str, offered: list[str]) -> None:
    line = f"flashbench {typed}"
    places = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "flashbench"],
        env=os.environ | places | {"_FLASHBENCH_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == offered


def test_no_color_is_honoured() -> None:
    command = [sys.executable, "-m", "flashbench", "--help"]
    colors = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    plain = subprocess.run(
        command, env=os.environ | colors | {"NO_COLOR": "1"}, capture_output=True, text=True, check=True
    )
    colored = subprocess.run(command, env=os.environ | colors, capture_output=True, text=True, check=True)
    assert "\x1b[36m" in colored.stdout or "\x1b[1;36m" in colored.stdout
    assert "36m" not in plain.stdout
