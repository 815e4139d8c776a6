"""Only one run at a time writes a file, and no lock outlives its run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.fake_results import make_results

from flashbench.errors import ResultsError
from flashbench.results import lock
from flashbench.results.lock import FileLock, exclusively, lock_path
from flashbench.results.store import load, save
from flashbench.results.stream import GrowingFile

HOLD = "import sys; from flashbench.results.lock import FileLock; lock = FileLock(sys.argv[1]); "
HOLD += "print('held', flush=True); sys.stdin.read()"


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_lock_ends_with_its_process_even_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with holder(path) as process:
        with pytest.raises(ResultsError, match=r"run\.json is being written by another run") as caught:
            FileLock(path)
        assert caught.value.hint == "wait for its end, or name another file"
        process.send_signal(signal.SIGKILL)
        process.wait()
        FileLock(path).release()
    assert list(tmp_path.iterdir()) == []  # the killed process's lock file is gone too


def test_a_second_run_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    first = GrowingFile(str(path))
    for name in ("run.json", "run.partial.json"):  # the first run may grow in either file
        for resume in (False, True):
            with pytest.raises(ResultsError, match="is being written by another run"):
                GrowingFile(str(tmp_path / name), resume=resume)
    first.finish(make_results())
    assert load(path) == make_results()
    GrowingFile(str(path)).close()
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_file_that_is_refused_for_what_it_holds_is_not_locked(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("something else")
    for _ in range(2):
        with pytest.raises(ResultsError, match="is not JSON"):
            GrowingFile(str(path), resume=True)
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_links_and_other_spellings_are_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(make_results(), path)
    (tmp_path / "link.json").symlink_to(path)
    (tmp_path / "below").mkdir()
    held = FileLock(path)
    for name in ("link.json", "below/../run.json"):
        with pytest.raises(ResultsError, match="is being written"):
            FileLock(tmp_path / name)
    held.release()


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "ä" * 125 + ".json", "\udcff.json"])
def test_a_lock_has_a_name_as_short_as_any(tmp_path: Path, name: str) -> None:
    held = FileLock(tmp_path / name)
    (found,) = tmp_path.iterdir()
    assert found == lock_path(tmp_path / name)
    assert len(found.name) == len(".flashbench-0123456789abcdef.lock")
    held.release()


def test_of_many_that_ask_at_once_one_has_it_at_a_time(tmp_path: Path) -> None:
    """Lock files come and go meanwhile. A removed lock file must lock nothing."""
    path, inside, most, taken = tmp_path / "run.json", [], [], []

    def ask() -> None:
        for _ in range(200):
            try:
                held = FileLock(path)
            except ResultsError:
                continue
            inside.append(1)
            most.append(len(inside))
            taken.append(1)
            inside.pop()
            held.release()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(taken) > 10
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_and_written_anew_exclusively_is_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def add() -> None:
        for _ in range(20):
            with exclusively(path):
                path.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "80"
    held = FileLock(path)
    with pytest.raises(ResultsError, match="is being written by another run"), exclusively(path, wait_s=0.1):
        raise AssertionError("it is another's")
    held.release()


def test_a_file_system_without_locks_is_said_and_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    path = tmp_path / "run.json"
    with pytest.warns(UserWarning, match=r"run\.json has no locks: two runs that write it would lose"):
        file = GrowingFile(str(path))
    file.finish(make_results())
    assert load(path) == make_results()
