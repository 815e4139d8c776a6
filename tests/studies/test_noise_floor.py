"""A noise floor is kept for later duels."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flashbench.problem import AttentionProblem
from flashbench.studies import noise_floor
from flashbench.studies.noise_floor import NoiseFloor, keep_floor, known_floor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def floor_of_length(seqlen: int) -> NoiseFloor:
    return NoiseFloor(
        cpu="Example CPU",
        threads=2,
        problem=AttentionProblem.of(seqlen),
        engine="flash",
        direction="fwd",
        floor=0.02,
        rounds=7,
        measured="2026-01-01T00:00:00+00:00",
    )


def test_two_floors_kept_at_the_same_time_are_both_kept(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    first, second = floor_of_length(512), floor_of_length(1024)
    other = threading.Thread(target=keep_floor, args=(second,))
    write = noise_floor.write_whole

    def write_late(path: Path, content: bytes) -> None:
        """The first has read and is about to write. Now the second starts, and gets time to finish."""
        if threading.current_thread() is not other:
            other.start()
            other.join(timeout=0.3)
        write(path, content)

    monkeypatch.setattr(noise_floor, "write_whole", write_late)
    assert keep_floor(first)
    other.join()
    for floor in (first, second):
        assert known_floor(floor.cpu, floor.threads, floor.problem, floor.direction) == floor
    assert [path.name for path in cache.iterdir()] == ["noise-floor.json"]


def test_no_lock_is_waited_for_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashbench.results.store.os.access", lambda *_: False)
    monkeypatch.setattr(noise_floor, "exclusively", lambda path: pytest.fail(f"{path} was to be locked"))
    with pytest.warns(RuntimeWarning, match="noise floor cannot be kept.*no permission to write to"):
        assert not keep_floor(floor_of_length(512))
