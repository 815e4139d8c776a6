"""A growing file is at every moment a whole results file, and never takes the place of a finished one."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from fake_results import make_measurement, make_results

from flashbench.errors import ResultsError
from flashbench.results.record import Results
from flashbench.results.store import load, save
from flashbench.results.stream import GrowingFile


def unfinished(count: int = 1, **changes: object) -> Results:
    rows = [make_measurement("flash", 128 * (place + 1)) for place in range(count)]
    return msgspec.structs.replace(make_results(rows), complete=False, **changes)


def test_every_write_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    file = GrowingFile(str(path))
    for count in (1, 2, 3):
        assert file.write(unfinished(count)) == path
        assert load(path) == unfinished(count)
    file.finish(make_results())
    assert load(path) == make_results()
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_finished_file_stays_until_the_next_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(make_results(), path)
    file = GrowingFile(str(path))
    partial = file.write(unfinished())
    assert partial == tmp_path / "run.partial.json"
    assert load(path) == make_results()
    later = make_results([make_measurement("flash", 64)])
    file.finish(later)
    assert load(path) == later
    assert not partial.exists()


@pytest.mark.parametrize("beside", [False, True])
def test_an_unfinished_run_is_resumed_and_not_overwritten(tmp_path: Path, beside: bool) -> None:
    path = tmp_path / "run.json"
    if beside:
        save(make_results(), path)
    where = GrowingFile(str(path)).write(unfinished(2))
    with pytest.raises(ResultsError, match="holds 2 measurements of an unfinished run") as caught:
        GrowingFile(str(path))
    assert caught.value.hint == f"--resume goes on with it; to begin again: rm {where}"
    file = GrowingFile(str(path), resume=True)
    assert file.earlier == unfinished(2)
    assert file.write(unfinished(3)) == where


def test_resuming_removes_what_killed_writers_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("run.json", "run.partial.json", "other.json")
    with monkeypatch.context() as killed:  # before it could move the file to its place, or remove it
        killed.setattr(os, "replace", lambda *names: None)
        for name in names:
            save(make_results(), tmp_path / name)
    left = set(tmp_path.iterdir())
    assert len(left) == len(names)
    GrowingFile(str(tmp_path / "run.json"), resume=True)
    (other,) = tmp_path.iterdir()
    GrowingFile(str(tmp_path / "other.json"), resume=True)
    assert other in left
    assert list(tmp_path.iterdir()) == []


def test_resuming_nothing_begins_and_resuming_a_finished_file_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert GrowingFile(str(path), resume=True).earlier is None
    save(make_results(), path)
    assert GrowingFile(str(path), resume=True).earlier == make_results()
    path.write_text("something else")
    with pytest.raises(ResultsError, match="is not JSON"):
        GrowingFile(str(path), resume=True)


def test_an_interrupted_duel_is_overwritten_as_it_cannot_go_on(tmp_path: Path) -> None:
    path = tmp_path / "duel.json"
    GrowingFile(str(path)).write(unfinished(kind="duel"))
    assert GrowingFile(str(path)).earlier is None


@pytest.mark.parametrize(
    "name",
    ["x" * 235 + ".json", "x" * 250 + ".json", "é" * 125 + ".json", "x" * 255, "x." + "x" * 253],
    ids=["240", "255", "two bytes a letter", "no suffix", "long suffix"],
)
def test_a_name_as_long_as_allowed_grows_and_is_resumed(tmp_path: Path, name: str) -> None:
    path, twin = tmp_path / name, tmp_path / f"y{name[1:]}"
    for each, size in ((path, 2), (twin, 3)):
        save(make_results(), each)
        GrowingFile(str(each)).write(unfinished(size))
    assert len(list(tmp_path.iterdir())) == 4
    file = GrowingFile(str(path), resume=True)
    assert file.earlier == unfinished(2)
    file.finish(make_results())
    GrowingFile(str(twin), resume=True).finish(make_results())
    assert {each.name for each in tmp_path.iterdir()} == {path.name, twin.name}


def test_a_directory_in_the_growing_files_place_is_told_before_the_run(tmp_path: Path) -> None:
    save(make_results(), tmp_path / "run.json")
    (tmp_path / "run.partial.json").mkdir()
    with pytest.raises(ResultsError, match=r"cannot write .*run\.partial\.json: it is a directory"):
        GrowingFile(str(tmp_path / "run.json"))


def test_a_device_takes_the_results_once() -> None:
    file = GrowingFile(os.devnull)
    assert not file.can_grow
    file.write(unfinished())
    file.finish(make_results())
