"""A sweep that is killed at any moment, again and again, ends as one that was never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashbench.results.store import load

KILLS = 50
LENGTHS = [16 + 8 * place for place in range(12)]
ROUNDS = 3
WORDS = ["sweep", "-e", "numpy", "-n", ",".join(map(str, LENGTHS)), "--causal", "no", "--block-sizes", "auto"]
WORDS += ["--rounds", str(ROUNDS), "--repeats", "1", "--threads", "1"]


def steps_in(path: Path) -> int:
    """Bursts and memory measurements that the file holds; 0 when there is no file yet."""
    if not path.exists():
        return 0
    rows = load(path).measurements
    return sum(len(row.time.samples_ns) for row in rows if row.time) + sum(
        row.memory is not None for row in rows
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_fifty_kills_lose_at_most_what_was_in_flight(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "sweep.json"
    command = [sys.executable, "-m", "flashbench", *WORDS, "--save", str(path), "--resume"]
    finished = 0
    for _ in range(KILLS):
        before = steps_in(path)
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + chance.uniform(0.2, 1.6)
        seen = before
        while time.monotonic() < end and run.poll() is None:
            seen = max(seen, steps_in(path))
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        # What was once in the file is there for good; a step more may have come before the kill.
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
    assert {each.name for each in tmp_path.iterdir()} == {"sweep.json"}
    assert finished < KILLS / 2, "the kills came too late to test anything"
