"""`flashbench duel --from FILE`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_exports import small_profile
from helpers.fake_inference import PLACES, in_rounds
from helpers.fake_results import make_time
from helpers.fake_training import make_step, make_training

from flashbench.results.store import load, save

CommandLine = Callable[..., Any]


def test_the_command(flashbench: CommandLine, tmp_path: Path) -> None:
    path, verdicts = tmp_path / "tokens.json", tmp_path / "verdicts.json"
    save(in_rounds(1.3), path)
    done = flashbench("duel", "--from", str(path), "--save", str(verdicts))
    assert done.code == 1
    assert "A: sdpa" in done.out
    assert "B: flash" in done.out
    assert done.out.count("sdpa faster") == len(PLACES) + 1
    kept = load(verdicts)
    assert kept.kind == "duel"
    assert {duel.verdict for duel in kept.duels} == {"a_faster"}
    assert flashbench("duel", "flash", "sdpa", "--from", str(path)).code == 0
    assert flashbench("duel", "--threshold", "50%", "--from", str(path)).code == 0
    again = flashbench("duel", "--from", str(verdicts))
    assert again.code == 2
    assert 'of kind "duel"' in again.err


def test_steps_of_training_have_duels_too(flashbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    arms = {"standard": 1e8, "flash": 7e7}
    save(make_training([make_step(arm, 512, time=make_time(ns)) for arm, ns in arms.items()]), path)
    done = flashbench("duel", "--from", str(path))
    assert done.code == 0
    assert "A: standard" in done.out
    assert "Context" in done.out or "Con-" in done.out
    assert "flash faster" in done.out


@pytest.mark.parametrize("option", [["--heads", "8"], ["--aa"], ["--resume"], ["--rounds", "9"]])
def test_options_that_measure_are_refused(flashbench: CommandLine, tmp_path: Path, option: list[str]) -> None:
    path = tmp_path / "tokens.json"
    save(in_rounds(1.0), path)
    done = flashbench("duel", *option, "--from", str(path))
    assert done.code == 2
    assert f"{option[0]} does not go with --from" in done.err


def test_a_file_of_measurements_is_refused(flashbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save(small_profile(), path)
    done = flashbench("duel", "--from", str(path))
    assert done.code == 2
    assert "--from takes a file of train or infer" in done.err
