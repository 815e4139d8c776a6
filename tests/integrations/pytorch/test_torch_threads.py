"""Threads: as many as PyTorch's, a warning for two OpenMP runtimes, and calls after a fork."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cgroups import FakeGroups

torch = pytest.importorskip("torch")

from flashbench.engines import launch
from flashbench.integrations.torch import OpenMP, Threads, attention, threads
from flashbench.system.affinity import BINDING_VARIABLES
from flashbench.system.cores import available_cores

CORES = available_cores()
NEEDS_CORES = pytest.mark.skipif(CORES < 2, reason="needs two cores")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="fork and shared libraries as Linux has them")


def used_threads(monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of threads with which a call calls its engine."""
    seen = []
    run = launch.run_kernel

    def spy(kernel: Any, address: int, num_threads: int, options: Any = ()) -> None:
        seen.append(num_threads)
        run(kernel, address, num_threads, options)

    with monkeypatch.context() as patch:
        patch.setattr(launch, "run_kernel", spy)
        attention(*(torch.ones(1, 4, 500, 64) for _ in range(3)))  # enough for many threads
    return int(seen[0])


def test_a_call_takes_as_many_as_pytorch_and_no_more_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    try:
        for wanted in (1, CORES, CORES + 3):
            torch.set_num_threads(wanted)
            expected = min(wanted, CORES)
            assert used_threads(monkeypatch) == expected
            assert threads()[:2] == (wanted, expected)
    finally:
        torch.set_num_threads(before)


def run(code: str, **environment: str) -> str:
    """The output of the code in a new process."""
    unset = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "OMP_WAIT_POLICY")
    unset += BINDING_VARIABLES
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REPORT = "from flashbench.integrations.torch import threads; print(repr(threads()))"


def reported(**environment: str) -> Threads:
    found: Threads = eval(run(REPORT, **environment), {"Threads": Threads, "OpenMP": OpenMP})
    return found


@pytest.mark.grid
@NEEDS_CORES
@pytest.mark.parametrize(
    ("environment", "torchs", "ours"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1, 1),
        ({"NUMBA_NUM_THREADS": "1"}, None, 1),
        ({"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "1"}, 2, 1),
    ],
)
def test_settings_of_the_environment(environment: dict[str, str], torchs: int | None, ours: int) -> None:
    found = reported(**environment)
    if torchs is not None:
        assert found.torch == torchs
    assert found.flashbench == ours
    assert found.omp_num_threads == environment.get("OMP_NUM_THREADS")
    assert found.numba_num_threads == environment.get("NUMBA_NUM_THREADS")
    assert found.numba_layer is None
    assert found.on_torch_threads == (sys.platform == "linux" and found.torch == found.flashbench > 1)
    disagree = [line for line in found.problems if "set OMP_NUM_THREADS and NUMBA_NUM_THREADS alike" in line]
    assert bool(disagree) == (found.flashbench < found.torch)
    if disagree:
        assert "NUMBA_NUM_THREADS=1 allows" in disagree[0]


@LINUX
@NEEDS_CORES
def test_a_main_thread_that_openmp_has_bound_takes_no_threads_away() -> None:
    found = reported(OMP_PROC_BIND="close")
    assert found.flashbench == found.torch
    assert found.binding == ("OMP_PROC_BIND=close",)
    assert not [line for line in found.problems if "PyTorch takes" in line]
    assert "bound by           OMP_PROC_BIND=close" in str(found)


def test_a_quota_below_pytorchs_threads_is_named(
    cgroups: FakeGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    cgroups.mount(2)
    cgroups.enter("/job")
    cgroups.write("/job", {"cpu.max": "60000 100000"})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = threads()
    finally:
        torch.set_num_threads(before)
    assert (found.torch, found.flashbench, found.cpu_quota) == (2, 1, 0.6)
    (line,) = [line for line in found.problems if "PyTorch takes" in line]
    if CORES > 1:
        assert "which is what the CPU quota of 0.6 cores' time (cgroup) allows" in line
    assert "CPU quota          0.6 cores' time (cgroup)" in str(found)


def test_more_threads_than_cores_are_a_problem() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(CORES + 2)
    try:
        (line,) = [line for line in threads().problems if "PyTorch takes" in line]
    finally:
        torch.set_num_threads(before)
    assert f"PyTorch takes {CORES + 2} threads and flashbench {CORES}" in line
    assert f"torch.set_num_threads({CORES})" in line


def test_what_is_printed() -> None:
    lines = run("from flashbench.integrations.torch import threads; print(threads())", OMP_NUM_THREADS="1")
    rows = dict(line.split(None, 1) for line in lines.splitlines())
    assert rows["PyTorch"] == "1 threads"
    assert rows["flashbench"] == "1 threads, of a pool"
    assert rows["OMP_NUM_THREADS"] == "1"
    assert rows["NUMBA_NUM_THREADS"] == "not set"


@LINUX
def test_two_openmp_runtimes_are_found_and_warned_of_once(tmp_path: Path) -> None:
    """A copy under another name is another library, like the copies that packages bring."""
    loaded = [runtime for runtime in threads().openmp if Path(runtime.path).is_file()]
    if not loaded:
        pytest.skip("this PyTorch has no OpenMP runtime in a file")
    copy = tmp_path / "libgomp-copy.so.1"
    shutil.copy(loaded[0].path, copy)
    code = f"""
import ctypes, warnings
import torch
from flashbench.integrations.torch import disable, enable, threads
assert not any("OpenMP runtimes" in line for line in threads().problems)
ctypes.CDLL({str(copy)!r})
assert [runtime.path for runtime in threads().openmp].count({str(copy)!r}) == 1
for expected in (1, 0):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        enable()
    found = [str(warning.message) for warning in caught if "2 OpenMP runtimes" in str(warning.message)]
    assert len(found) == expected, found
    for warning in caught:
        assert warning.filename == "<string>", warning.filename
    disable()
print(*found, *threads().problems)
"""
    assert str(copy) in run(code)


LAUNCH = """
import os, sys
import numba
import numpy as np
import torch
from flashbench.integrations.torch import attention, threads

@numba.njit(parallel=True)
def parallel(x):
    for i in numba.prange(x.size):
        x[i] += 1
    return x

x = [torch.randn(1, 2, 300, 16, requires_grad=True) for _ in range(3)]
expected = attention(*x)
gradients = torch.autograd.grad(expected.sum(), x)
parallel(np.ones(100))
here = threads()
"""


@LINUX
def test_after_a_fork_flashbench_works_and_says_that_numbas_own_code_must_not_run() -> None:
    code = f"""{LAUNCH}
assert here.numba_layer == "omp", here
(line,) = [line for line in here.problems if "Numba" in line]
assert "forked from now on" in line and "NUMBA_THREADING_LAYER=workqueue" in line, line
child = os.fork()
if not child:
    o = attention(*x)
    assert torch.equal(o, expected)
    for actual, gradient in zip(torch.autograd.grad(o.sum(), x), gradients):
        assert torch.equal(actual, gradient)
    (line,) = [line for line in threads().problems if "Numba" in line]
    assert "must not run such code" in line and "spawn" in line, line
    sys.stdout.write("child done\\n")
    sys.stdout.flush()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
child = os.fork()
if not child:
    parallel(np.ones(100))  # and so it is: this is what the report warns of
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
"""
    assert run(code, NUMBA_THREADING_LAYER="omp", NUMBA_NUM_THREADS="2") == "child done"


@LINUX
def test_layers_that_survive_a_fork_are_no_problem() -> None:
    code = f"""{LAUNCH}
assert here.numba_layer == "workqueue", here
assert not any("Numba" in line for line in here.problems), here
child = os.fork()
if not child:
    assert torch.equal(attention(*x), expected)
    os._exit(any("Numba" in line for line in threads().problems))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code, NUMBA_THREADING_LAYER="workqueue") == "0"
