"""The process's cores are those that taskset left it, even if an OpenMP runtime bound a thread."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from flashbench.errors import ConfigError
from flashbench.system import affinity
from flashbench.system.affinity import binding_settings, on_process_cores, pinned_to, process_cores

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs masks of threads: Linux")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
NEEDS_CORES = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
ALL = ",".join(map(str, CORES))


def run(code: str, *settings: str, cores: list[int] | None = None) -> str:
    """The output of the code in a process with these settings, started on these cores."""
    environment = {
        name: value for name, value in os.environ.items() if name not in affinity.BINDING_VARIABLES
    }
    environment |= dict(setting.split("=", 1) for setting in settings)
    start = f"import os\nos.sched_setaffinity(0, {set(cores)})\n" if cores else "import os\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPORT = """
import ctypes
ctypes.CDLL({libgomp!r})  # as `import torch` does
from flashbench.system.affinity import process_cores
from flashbench.system.cores import available_cores
print(len(os.sched_getaffinity(0)), sorted(process_cores()), available_cores())
"""


@pytest.fixture(scope="module")
def report() -> str:
    """Code that loads GNU's OpenMP runtime (the system's or PyTorch's), and prints the cores left."""
    path = ctypes.util.find_library("gomp")
    if path is None:
        torch = find_spec("torch")
        places = torch.submodule_search_locations if torch is not None else None
        found = [file for place in places or () for file in Path(place).glob("lib/libgomp*")]
        if not found:
            pytest.skip("there is no libgomp")
        path = str(found[0])
    return REPORT.format(libgomp=path)


@LINUX
@NEEDS_CORES
@pytest.mark.parametrize("setting", ["OMP_PROC_BIND=close", f"GOMP_CPU_AFFINITY={ALL}", "OMP_PLACES=threads"])
def test_a_bound_main_thread_leaves_the_process_its_cores(setting: str, report: str) -> None:
    assert run(report, setting) == f"1 {CORES} {len(CORES)}"  # the thread itself has one core


PLACES = """
import threading
from flashbench.threads.pool import run_on_threads
everyone, getcpu, seen = threading.Barrier(2, timeout=20), ctypes.CDLL(None).sched_getcpu, {}
def work(slot):
    everyone.wait()
    seen[slot] = getcpu()
apart = 0
for _ in range(20):
    run_on_threads(work, 2)
    apart += seen[0] != seen[1]
print(apart)
"""


@LINUX
@NEEDS_CORES
def test_threads_of_a_call_leave_the_core_that_its_caller_is_bound_to(report: str) -> None:
    """New threads start with their maker's mask."""
    _, apart = run(report + PLACES, "OMP_PROC_BIND=close").splitlines()
    assert int(apart) == 20


@LINUX
@NEEDS_CORES
@pytest.mark.parametrize("settings", [(), ("OMP_PROC_BIND=close",), ("OMP_PROC_BIND=false",)])
def test_taskset_is_respected(settings: tuple[str, ...], report: str) -> None:
    last = CORES[-1:]
    assert run(report, *settings, cores=last) == f"1 {last} 1"


@LINUX
@NEEDS_CORES
def test_a_list_of_cores_beyond_taskset_adds_none(report: str) -> None:
    """libgomp binds the thread to one core of the list. Then only the number of taskset's cores is known."""
    assert run(report, f"GOMP_CPU_AFFINITY={ALL}", cores=CORES[-1:]).split()[-1] == "1"


@LINUX
@NEEDS_CORES
def test_a_list_of_fewer_cores_is_what_openmp_and_we_share(report: str) -> None:
    """Two programs may each have such a list, for a part of the machine."""
    assert run(report, f"GOMP_CPU_AFFINITY={CORES[0]}") == f"1 {CORES[:1]} 1"


@LINUX
@NEEDS_CORES
def test_a_program_that_narrows_its_own_mask_is_believed() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, CORES[:1])
        assert process_cores() == set(CORES[:1])
    finally:
        os.sched_setaffinity(0, before)
    assert process_cores() == before


def test_settings_that_bind_nothing_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in affinity.BINDING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_PROC_BIND", "FALSE")
    monkeypatch.setenv("KMP_AFFINITY", "verbose,granularity=core")
    monkeypatch.setenv("OMP_PLACES", "cores")
    assert binding_settings() == {}
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    monkeypatch.setenv("KMP_AFFINITY", "granularity=fine,compact,1,0")
    assert list(binding_settings()) == ["OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY"]
    monkeypatch.setenv("KMP_AFFINITY", "verbose,none")
    monkeypatch.setenv("OMP_PLACES", "")
    assert list(binding_settings()) == ["OMP_PROC_BIND"]


@LINUX
@NEEDS_CORES
def test_what_a_bound_thread_starts_has_the_process_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(affinity, "process_cores", lambda: frozenset(before))
    try:
        os.sched_setaffinity(0, CORES[:1])
        with on_process_cores():
            assert os.sched_getaffinity(0) == before
        assert os.sched_getaffinity(0) == set(CORES[:1])  # as it was bound
    finally:
        os.sched_setaffinity(0, before)


@LINUX
@NEEDS_CORES
def test_pinned_to_cpus_within_the_block_and_as_before_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with pinned_to(CORES[-1:]):
        started = subprocess.check_output(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        )
        assert process_cores() == set(CORES[-1:])
    assert list(map(int, started.split())) == CORES[-1:]
    with pinned_to(None):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


@LINUX
@pytest.mark.parametrize(
    ("cpus", "said"),
    [
        ([1, 2, 6, 8, 9], "--cpus names CPUs that this machine does not have: 8-9"),
        ([0, 1, 2, 7], "--cpus names CPUs that this process may not use: 0-1,7"),
        ([], "cpus must name at least one CPU"),
    ],
)
def test_cpus_that_cannot_be_used_are_named(
    cpus: list[int], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "online").write_text("0-7\n")
    monkeypatch.setattr(affinity, "ONLINE", tmp_path / "online")
    monkeypatch.setattr(affinity, "process_cores", lambda: frozenset({2, 3, 4, 6}))
    with pytest.raises(ConfigError) as caught, pinned_to(cpus):
        pass
    assert str(caught.value) == said
    assert caught.value.hint == ("choose from 2-4,6" if cpus else None)


def test_a_system_without_masks_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    assert process_cores() is None
    with pytest.raises(ConfigError, match="--cpus needs Linux"), pinned_to([0]):
        pass
    with on_process_cores():
        pass
