"""The cache of machine code: found again, never stale, never in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flashbench
from flashbench.codegen import compiled as cache_of_kernels
from flashbench.codegen.compiled import cache_directory, compiled
from flashbench.kernels.probes import peak
from flashbench.threads import pool

SCRIPT = """
from flashbench.codegen import compiled
saved = []
original = compiled._KernelCache.save_overload
def save(self, sig, data):
    saved.append(sig)
    original(self, sig, data)
compiled._KernelCache.save_overload = save
from flashbench.kernels.probes.peak import fma_burst
assert fma_burst("float64", 10, 1) > 0
print("compiled" if saved else "cached")
"""


def run(cache: Path, *, path: Path | None = None) -> tuple[str, str]:
    """stdout and stderr of a process that runs one small kernel."""
    environment = {**os.environ, "FLASHBENCH_CACHE_DIR": str(cache), "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=cache.parent,  # not the checkout, whose package would come before that of PYTHONPATH
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.bin"))


def test_a_second_process_finds_the_machine_code(tmp_path):
    assert run(tmp_path)[0] == "compiled"
    before = {path: path.stat().st_mtime_ns for path in entries(tmp_path)}
    assert run(tmp_path)[0] == "cached"
    assert {path: path.stat().st_mtime_ns for path in entries(tmp_path)} == before


@pytest.mark.parametrize("damage", ["truncate", "garble", "empty"])
def test_a_damaged_entry_is_compiled_again(tmp_path, damage):
    run(tmp_path)
    (entry,) = entries(tmp_path)
    content = entry.read_bytes()
    entry.write_bytes(
        {
            "truncate": content[: len(content) // 2],
            "garble": content[:-100] + bytes(100),
            "empty": b"",
        }[damage]
    )
    assert run(tmp_path)[0] == "compiled"
    assert entry.read_bytes()[32:] != b""
    assert run(tmp_path)[0] == "cached"


def test_an_edit_of_any_kernel_source_makes_all_machine_code_new(tmp_path):
    copy = tmp_path / "site" / "flashbench"
    shutil.copytree(Path(flashbench.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    before = sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts)
    assert run(cache, path=copy.parent)[0] == "compiled"
    assert run(cache, path=copy.parent)[0] == "cached"
    # Nothing is written next to the sources, so a read-only install works.
    assert sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts) == before
    assert not list(copy.rglob("*.nb*"))
    # Edit not the kernel's own file, but one that it is built from, or one in another folder.
    for part in ("codegen/ir.py", "kernels/scalar.py", "kernels/maths/rows.py"):
        with (copy / part).open("a") as file:
            file.write("# an edit\n")
        assert run(cache, path=copy.parent)[0] == "compiled"
    with (copy / "threads" / "pool.py").open("a") as file:  # no kernel is made from it
        file.write("# an edit\n")
    assert run(cache, path=copy.parent)[0] == "cached"


def test_the_threads_have_machine_code_of_their_own_sources():
    assert pool._machine_code()._made[0]._cache.cache_path != peak._fma_burst._cache.cache_path


def test_without_a_writable_directory_kernels_still_run_and_say_so(tmp_path):
    blocked = tmp_path / "a-file"
    blocked.write_text("not a directory")
    output, warnings = run(blocked)
    assert output == "compiled"
    assert "cannot be kept" in warnings
    assert "FLASHBENCH_CACHE_DIR" in warnings


def test_the_target_cpu_is_part_of_the_key(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic" if os.environ.get("NUMBA_CPU_NAME") != "generic" else "")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    assert run(tmp_path)[0] == "compiled"


@pytest.fixture(params=[None, "", "relative"])
def _no_home(request, tmp_path, monkeypatch):
    """A user without a home directory, as in `docker run --user 54321`, in an empty working directory."""
    pwd = pytest.importorskip("pwd")

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "FLASHBENCH_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    if request.param is not None:
        monkeypatch.setenv("HOME", request.param)
    monkeypatch.setattr(cache_of_kernels, "_warned", set())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_no_home")
def test_without_a_home_kernels_run_with_one_warning_and_make_no_directory(tmp_path):
    double = compiled(lambda x: x + x)
    with pytest.warns(RuntimeWarning, match="no home directory.*set FLASHBENCH_CACHE_DIR") as said:
        assert (double(2), double(0.25)) == (4, 0.5)
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_home")
def test_a_relative_directory_of_an_older_platformdirs_is_no_home(monkeypatch):
    monkeypatch.setattr(cache_of_kernels, "user_cache_path", lambda *_, **__: Path("~/.cache/flashbench"))
    with pytest.raises(OSError, match="no home directory"):
        cache_directory()


@pytest.mark.parametrize("_no_home", [None], indirect=True)
@pytest.mark.usefixtures("_no_home")
def test_a_chosen_directory_needs_no_home_unless_it_begins_with_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", "kept")
    assert cache_directory() == Path("kept")
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", "~/kept")
    with pytest.raises(OSError, match="FLASHBENCH_CACHE_DIR is ~/kept, and the user has no home"):
        cache_directory()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "kept"


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, files_of_at_most):
    monkeypatch.setenv("FLASHBENCH_CACHE_DIR", str(tmp_path))
    triple = compiled(lambda x: 3 * x)
    with files_of_at_most(1000), pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert triple(5) == 15
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
