"""A results file is never half written, and never half read."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.fake_exports import with_features
from helpers.fake_results import make_results
from hypothesis import given
from hypothesis import strategies as st

from flashbench.errors import ResultsError
from flashbench.results import store
from flashbench.results.record import Accuracy, Results

RESULTS = make_results()
CONTENT = store.encode(RESULTS)


def read_error(path: Path) -> str:
    with pytest.raises(ResultsError) as caught:
        store.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    store.save(RESULTS, path)
    assert store.load(path) == RESULTS
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_file_from_before_the_optional_features_is_read(tmp_path: Path) -> None:
    document = json.loads(CONTENT)
    for row in document["measurements"]:
        del row["rates"]["gbps"], row["rates"]["percent_of_bandwidth"]
        assert set(row["problem"]).isdisjoint({"window_left", "softcap", "key_lengths"})
    assert store.decode(json.dumps(document).encode(), name="older.json") == RESULTS


def test_features_read_back(tmp_path: Path) -> None:
    results = with_features()
    store.save(results, tmp_path / "features.json")
    assert store.load(tmp_path / "features.json") == results


def test_an_error_that_is_not_finite_reads_back_as_none() -> None:
    row = msgspec.structs.replace(
        RESULTS.measurements[0],
        accuracy=Accuracy(max_abs_error=float("nan"), tolerance=1e-12, rows_checked=1),
    )
    results = msgspec.structs.replace(RESULTS, measurements=[row])
    read = store.decode(store.encode(results), name="run.json")
    assert read.measurements[0].accuracy == Accuracy(max_abs_error=None, tolerance=1e-12, rows_checked=1)


def test_bytes_that_are_no_text_are_kept_by_their_numbers(tmp_path: Path) -> None:
    command = ["flashbench", "profile", "--save", os.fsdecode(b"\xe9.json"), "\ud800"]
    store.save(msgspec.structs.replace(RESULTS, command=command), tmp_path / "run.json")
    read = store.load(tmp_path / "run.json")
    assert read.command == ["flashbench", "profile", "--save", r"\xe9.json", "?"]
    assert read.measurements == RESULTS.measurements


@pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"the old file")

    def fail(*args: Any, **named: Any) -> None:
        raise error

    if failing == "write":
        monkeypatch.setattr(Path, "open", fail)
    else:
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(ResultsError if isinstance(error, OSError) else KeyboardInterrupt):
        store.save(RESULTS, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_kill_before_the_rename_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"the old file")
    # The child dies after it has written the new file next to the old one.
    program = (
        "import os, sys; from flashbench.results import store\n"
        "results = store.load(sys.argv[1]); os.replace = lambda *names: os._exit(9)\n"
        "store.save(results, sys.argv[2])"
    )
    source = tmp_path / "source.json"
    store.save(RESULTS, source)
    assert subprocess.run([sys.executable, "-c", program, source, path], check=False).returncode == 9
    assert path.read_bytes() == b"the old file"
    store.save(RESULTS, path)
    assert store.load(path) == RESULTS


def test_a_link_stays_a_link_and_its_target_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "run.json", tmp_path / "latest.json"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    store.save(RESULTS, link)
    assert link.is_symlink()
    assert store.load(target) == RESULTS
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_device_is_written_without_a_file_beside_it() -> None:
    store.save(RESULTS, os.devnull)


def test_a_place_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="it is a directory"):
        store.check_writable(tmp_path)
    with pytest.raises(ResultsError, match="there is no directory") as caught:
        store.check_writable(tmp_path / "missing" / "run.json")
    assert caught.value.hint == f"mkdir -p {tmp_path / 'missing'}"
    store.check_writable(tmp_path / "run.json")
    store.check_writable(tmp_path / ("x" * 255))
    with pytest.raises(ResultsError, match="file name too long"):
        store.check_writable(tmp_path / ("x" * 256))
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="not a directory"):
        store.check_writable(tmp_path / "file" / "run.json")
    with pytest.raises(ResultsError, match="cannot write"):
        store.check_writable(tmp_path / "a\0b")
    circle = tmp_path / "circle.json"
    circle.symlink_to(circle)
    with pytest.raises(ResultsError, match="symbolic links"):
        store.check_writable(circle)


def test_a_file_that_is_read_only_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "run.json"
    kept.touch()
    # Root may write anywhere, so the test replaces the system's answer.
    monkeypatch.setattr(os, "access", lambda path, mode: path != kept)
    with pytest.raises(ResultsError, match=r"no permission to write to .*run\.json"):
        store.check_writable(kept)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ResultsError, match="no permission to write to"):
        store.check_writable(kept)


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, files_of_at_most: Any) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"the old file")
    with files_of_at_most(1000), pytest.raises(ResultsError, match="cannot write"):
        store.save(RESULTS, path)
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(CONTENT) | changes).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty, not a results file"),
        (CONTENT[:-100], "is truncated: it ends after"),
        (b"Seq Len,Time\n128,1.23\n", "is not JSON: invalid character (byte 0)"),
        (b'{"schema_version": 2,}', "is not JSON: trailing comma in object (byte 21)"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[1, 2]", "is not a results file of flashbench"),
        (b"null", "is not a results file of flashbench"),
        (b'{"name": "something else"}', "is not a results file of flashbench"),
        (b"[" * 100_000 + b"]" * 100_000, "is not a results file of flashbench"),
        (changed(schema_version="one"), "has no whole number schema_version"),
        (
            changed(schema_version=3, shape="new"),
            "was written by a newer flashbench: schema_version 3, this one reads 1 to 2",
        ),
        (
            changed(schema_version=0),
            "was written by another flashbench: schema_version 0, this one reads 1 to 2",
        ),
        (b'{"schema_version": 1, "measurements": 3}', "is not a results file of schema_version 1"),
        (changed(machine=None), "has a wrong field: expected `object`, got `null` - at `$.machine`"),
        (changed(surprise=1), "has a wrong field: object contains unknown field `surprise`"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    message = read_error(path)
    assert message.startswith(str(path))
    assert said in message


def test_a_file_of_version_1_is_read_as_samples_of_one_process() -> None:
    document = json.loads(CONTENT)
    document["schema_version"] = 1
    for row in document["measurements"]:
        del row["time"]["minimum_ns"]
    read = store.decode(json.dumps(document).encode(), name="run.json")
    time, before = read.measurements[0].time, RESULTS.measurements[0].time
    assert time is not None
    assert before is not None
    assert time.samples_ns == [[sample for burst in before.samples_ns for sample in burst]]
    assert time.minimum_ns == min(time.samples_ns[0])
    assert (read.schema_version, read.machine) == (2, RESULTS.machine)


def test_growth_of_version_1_began_from_a_level_that_held_the_outputs() -> None:
    document = json.loads(CONTENT)
    document["schema_version"] = 1
    document["measurements"][0]["memory"]["resident_delta_bytes"] = 4096
    read = store.decode(json.dumps(document).encode(), name="run.json")
    first, second = (row.memory for row in read.measurements[:2])
    assert first is not None
    assert second is not None
    assert first.resident_delta_bytes == 4096 + first.output_bytes
    assert second.resident_delta_bytes is None


@pytest.mark.parametrize("name", ["documented.json", "amd-epyc-zen4-2-cores.json"])
def test_the_committed_files_are_read(repository: Path, name: str) -> None:
    assert store.load(repository / "results" / name).measurements


def test_a_wrong_field_is_named_by_its_path(tmp_path: Path) -> None:
    document = json.loads(CONTENT)
    document["measurements"][3]["time"]["median_ns"] = "fast"
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    assert "expected `float`, got `str` - at `$.measurements[3].time.median_ns`" in read_error(path)


def test_an_impossible_problem_is_named_by_its_path(tmp_path: Path) -> None:
    document = json.loads(CONTENT)
    document["measurements"][0]["problem"]["num_heads"] = 0
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    assert "num_heads must be at least 1, not 0 - at `$.measurements[0].problem`" in read_error(path)


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    assert read_error(tmp_path / "none.json") == f"results file {tmp_path / 'none.json'} is not found"
    assert read_error(tmp_path) == f"{tmp_path} is a directory, not a results file"


@given(end=st.integers(0, len(CONTENT.rstrip()) - 1))
def test_a_file_cut_anywhere_is_refused(end: int) -> None:
    with pytest.raises(ResultsError):
        store.decode(CONTENT[:end], name="run.json")


@given(place=st.integers(0, len(CONTENT) - 1), byte=st.integers(0, 255))
def test_a_file_with_one_byte_changed_is_read_or_refused(place: int, byte: int) -> None:
    damaged = CONTENT[:place] + bytes([byte]) + CONTENT[place + 1 :]
    with contextlib.suppress(ResultsError):
        assert isinstance(store.decode(damaged, name="run.json"), Results)
