"""Ctrl-C gives exit code 130 and one line in every command, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashbench.cli import app
from flashbench.errors import FlashbenchError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")

RESULTS = "results/amd-epyc-zen4-2-cores.json"
COMMANDS = {
    "profile": ["--json", "-"],
    "sweep": ["--json", "-"],
    "verify": ["--json", "-"],
    "compare": [RESULTS, RESULTS],
    "duel": ["flash", "numpy", "--json", "-"],
    "train": ["--json", "-"],
    "infer": ["--json", "-"],
    "export": [RESULTS, "--format", "csv"],
    "report": [RESULTS],
    "machine": ["--json", "-"],
    "plan": ["--hosts", "2", "--seq-len", "1k", "--link", "1GB/s", "--json", "-"],
    "tune": ["--json", "-"],
    "engines": ["--json", "-"],
}
# Interrupts itself just before the import of the module named MODULE. Inside the command this may become
# another error, as Python 3.11 makes of an interrupt in a class body.
PROGRAM = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MODULE"]:
            sys.meta_path.remove(self)
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise RuntimeError("no such class") from error

sys.meta_path.insert(0, Interrupting())
from flashbench.cli.entry import main
sys.exit(main())
"""


def interrupted_at(module: str, words: list[str], repository: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line, and interrupt it when it imports the module."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env=os.environ | {"MODULE": module},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) == {command.callback.__name__ for command in app.make_app().registered_commands}


@pytest.mark.parametrize("command", COMMANDS)
def test_before_a_command_has_read_its_options(command: str, repository: Path) -> None:
    done = interrupted_at("msgspec", [command, *COMMANDS[command]], repository)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("module", ["flashbench.cli.app", "typer", "flashbench.cli.options"])
def test_before_there_is_a_command(module: str, repository: Path) -> None:
    done = interrupted_at(module, ["profile"], repository)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_while_workers_measure(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the command and to its workers."""
    path = tmp_path / "run.json"
    words = [
        "profile",
        "-n",
        "16,32",
        "-e",
        "numpy",
        "--rounds",
        "500",
        "--threads",
        "1",
        "--save",
        str(path),
    ]
    run = subprocess.Popen(
        [sys.executable, "-m", "flashbench", *words, "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not path.is_file():  # it grows from the first step on
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.splitlines()[-2].startswith("interrupted: ")
    assert err.splitlines()[-1] == "hint: the same command with --resume goes on"
    assert "Traceback" not in err
    assert path.is_file()


def raising(error: Exception):
    def profile() -> None:
        raise error

    return profile


def test_what_a_library_makes_of_an_interrupt_is_no_bug(flashbench, monkeypatch) -> None:
    monkeypatch.setattr(app.profile, "profile", raising(RuntimeError("no such class")))
    assert flashbench("profile").code == 70
    monkeypatch.setattr(app, "was_interrupted", lambda: True)
    assert flashbench("profile") == (130, "", "interrupted\n")


def test_an_error_of_ours_after_an_interrupt_keeps_its_words(flashbench, monkeypatch) -> None:
    error = FlashbenchError("3 measurements, kept in run.json")
    error.exit_code = 130
    monkeypatch.setattr(app.profile, "profile", raising(error))
    monkeypatch.setattr(app, "was_interrupted", lambda: True)
    assert flashbench("profile") == (130, "", "interrupted: 3 measurements, kept in run.json\n")
