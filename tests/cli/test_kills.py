"""A run that is killed at any moment, several times, ends like a run that was never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashbench.results.store import load

LENGTHS = [16 + 8 * place for place in range(12)]
ROUNDS = 3
WORDS = ["sweep", "-e", "numpy", "-n", ",".join(map(str, LENGTHS)), "--causal", "no", "--block-sizes", "auto"]
WORDS += ["--rounds", str(ROUNDS), "--repeats", "1", "--threads", "1"]


def steps_in(path: Path) -> int:
    """Number of bursts and memory measurements in the file; 0 if there is no file yet."""
    if not path.exists():
        return 0
    rows = load(path).measurements
    return sum(len(row.time.samples_ns) for row in rows if row.time) + sum(
        row.memory is not None for row in rows
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.grid)])
def test_kills_lose_at_most_what_was_in_flight(tmp_path: Path, kills: int) -> None:
    chance = random.Random(0)
    path = tmp_path / "sweep.json"
    command = [sys.executable, "-m", "flashbench", *WORDS, "--save", str(path), "--resume"]
    finished = 0
    for _ in range(kills):
        before = steps_in(path)
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + chance.uniform(0.2, 1.6)
        seen = before
        while time.monotonic() < end and run.poll() is None:
            seen = max(seen, steps_in(path))
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        # Steps in the file are never lost. One more step may have been added before the kill.
        assert steps_in(path) >= seen >= before
        if path.exists() and load(path).complete:
            path.unlink()
            finished += 1
    run_to_end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run_to_end.returncode == 0, run_to_end.stderr
    results = load(path)
    assert results.complete
    assert [row.problem.seqlen_q for row in results.measurements] == LENGTHS
    for row in results.measurements:
        assert row.time is not None
        assert [len(process) for process in row.time.samples_ns] == [len(row.time.samples_ns[0])] * ROUNDS
        assert row.memory is not None
        assert row.accuracy is not None
    assert {each.name for each in tmp_path.iterdir()} == {"sweep.json"}  # no lock is left either
    assert finished < kills / 2, "the kills came too late to test anything"


def rounds_in(path: Path) -> int:
    """Number of rounds in a duel's file; 0 if there is no file yet."""
    return sum(len(duel.orders) for duel in load(path).duels) if path.exists() else 0


@pytest.mark.grid
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_duel_goes_on_and_keeps_its_rounds(tmp_path: Path) -> None:
    """Kill it twice, each time as soon as one more round is in the file."""
    path = tmp_path / "duel.json"
    words = ["duel", "numpy", "--python-b", sys.executable, "-n", "16", "--threads", "1", "--repeats", "1"]
    command = [sys.executable, "-m", "flashbench", *words, "--looks", "1", "--save", str(path), "--resume"]
    for _ in range(2):
        before = rounds_in(path)
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while rounds_in(path) == before and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert before < rounds_in(path)
    kept = load(path)
    run_to_end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run_to_end.returncode in (0, 1, 3), run_to_end.stderr  # either side may be faster
    results = load(path)
    assert results.complete
    assert len(results.duels[0].orders) == 7
    for old, new in zip(kept.measurements, results.measurements, strict=True):
        assert old.time is not None
        assert new.time is not None
        assert new.time.samples_ns[: len(old.time.samples_ns)] == old.time.samples_ns
    assert {each.name for each in tmp_path.iterdir()} == {"duel.json"}
