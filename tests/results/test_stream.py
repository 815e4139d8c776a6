"""A growing file is a complete results file at every moment, and never replaces a finished one."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from helpers.fake_results import make_measurement, make_results

from flashbench.errors import ResultsError
from flashbench.results.record import Results
from flashbench.results.store import encode, load, save
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
    with closing(GrowingFile(str(path))) as first:
        where = first.write(unfinished(2))
    with pytest.raises(ResultsError, match="holds 2 measurements of an unfinished run") as caught:
        GrowingFile(str(path))
    assert caught.value.hint == f"--resume goes on with it; to begin again: rm {where}"
    with closing(GrowingFile(str(path), resume=True)) as file:
        assert file.earlier == unfinished(2)
        assert file.write(unfinished(3)) == where


def test_resuming_removes_what_killed_writers_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("run.json", "run.partial.json", "other.json")
    with monkeypatch.context() as killed:  # killed before it could move or remove the file
        killed.setattr(os, "replace", lambda *names: None)
        for name in names:
            save(make_results(), tmp_path / name)
    left = set(tmp_path.iterdir())
    assert len(left) == len(names)
    GrowingFile(str(tmp_path / "run.json"), resume=True).close()
    (other,) = tmp_path.iterdir()
    GrowingFile(str(tmp_path / "other.json"), resume=True).close()
    assert other in left
    assert list(tmp_path.iterdir()) == []


def test_resuming_nothing_begins_and_resuming_a_finished_file_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with closing(GrowingFile(str(path), resume=True)) as file:
        assert file.earlier is None
    save(make_results(), path)
    with closing(GrowingFile(str(path), resume=True)) as file:
        assert (file.earlier, file.replaces) == (make_results(), None)
    path.write_text("something else")
    with pytest.raises(ResultsError, match="is not JSON"):
        GrowingFile(str(path), resume=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encode(make_results()), "run.json, a finished profile of 2026-11-23 12:00"),
        (b"my notes", "run.json, which is no results file"),
    ],
)
def test_what_a_finished_run_will_replace_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with closing(GrowingFile(str(path))) as file:
        assert file.replaces == f"{tmp_path}/{words}"
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["duel", "train"])
def test_an_interrupted_duel_or_training_can_go_on_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.json"
    with closing(GrowingFile(str(path))) as file:
        file.write(unfinished(kind=kind))
    with pytest.raises(ResultsError, match="holds 1 measurement of an unfinished run"):
        GrowingFile(str(path))
    with closing(GrowingFile(str(path), resume=True)) as file:
        assert file.earlier == unfinished(kind=kind)


@pytest.mark.parametrize(
    "name",
    ["x" * 235 + ".json", "x" * 250 + ".json", "é" * 125 + ".json", "x" * 255, "x." + "x" * 253],
    ids=["240", "255", "two bytes a letter", "no suffix", "long suffix"],
)
def test_a_name_as_long_as_allowed_grows_and_is_resumed(tmp_path: Path, name: str) -> None:
    path, twin = tmp_path / name, tmp_path / f"y{name[1:]}"
    for each, size in ((path, 2), (twin, 3)):
        save(make_results(), each)
        with closing(GrowingFile(str(each))) as first:
            first.write(unfinished(size))
    assert len(list(tmp_path.iterdir())) == 4
    with closing(GrowingFile(str(path), resume=True)) as file:
        assert file.earlier == unfinished(2)
        file.finish(make_results())
    with closing(GrowingFile(str(twin), resume=True)) as file:
        file.finish(make_results())
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
