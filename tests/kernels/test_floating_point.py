"""The floating-point mode of a call is its caller's, in every thread of it."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from flashbench.engines import Settings, get_engine
from flashbench.problem import AttentionProblem
from flashbench.threads.pool import Lent, run_on_threads

DENORMAL = np.float64(2.0**-1060)


def flushes() -> bool:
    """Whether the calling thread flushes denormals to zero."""
    return float(np.multiply(DENORMAL, np.float64(0.5))) == 0.0


def flushing_slots(size: int) -> dict[int, bool]:
    seen: dict[int, bool] = {}
    everyone = threading.Barrier(size, timeout=60)

    def work(slot: int) -> None:
        everyone.wait()
        seen[slot] = flushes()

    run_on_threads(work, size)
    return seen


@pytest.mark.parametrize("kind", ["pool", "openmp"])
@pytest.mark.skipif(sys.platform == "win32", reason="the C library has no fegetenv that ctypes finds")
def test_every_thread_flushes_denormals_as_its_caller_does(kind: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("PyTorch cannot flush denormals on this CPU")
    torch.set_flush_denormal(False)
    size = 3
    if kind == "openmp":
        from flashbench.integrations.torch.runtime import torch_team

        team = torch_team()
        if team is None:
            pytest.skip("PyTorch does not compute on libgomp here")
        lent = Lent(team, size)
    else:
        lent = Lent(None, 0)
    with lent:
        for flushing in (True, False, True):
            torch.set_flush_denormal(flushing)
            try:
                assert flushes() is flushing
                assert flushing_slots(size) == dict.fromkeys(range(size), flushing)
            finally:
                torch.set_flush_denormal(False)


@pytest.mark.parametrize("path", ["dot_bf16-emulated", "amx-emulated"])
@pytest.mark.parametrize("flushing", [False, True])
@pytest.mark.skipif(sys.platform == "win32", reason="the C library has no fegetenv that ctypes finds")
def test_a_path_that_flushes_leaves_the_mode_as_it_was(path: str, flushing: bool) -> None:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("PyTorch cannot flush denormals on this CPU")
    problem = AttentionProblem.of(200, num_heads=4, dtype="bfloat16")
    q, k, v, do = problem.make_inputs()
    engine, settings = get_engine("flash"), Settings(path=path, num_threads=3)
    torch.set_flush_denormal(flushing)
    try:
        forward = engine.forward(problem, settings, q, k, v)
        engine.backward(problem, settings, do, q, k, v, forward)
        assert flushes() is flushing
        assert flushing_slots(3) == dict.fromkeys(range(3), flushing)
    finally:
        torch.set_flush_denormal(False)


# In a new process: a new thread inherits its maker's mode, so other tests would decide PyTorch's threads'
# mode.
TEAM = """
import torch
from flashbench.integrations.torch.runtime import torch_team
from flashbench.threads.pool import Lent, run_on_threads
torch.set_num_threads(3)
x = torch.full((1 << 22,), 2.0**-1060, dtype=torch.float64)
assert bool((x * 0.5 != 0).all())  # all threads are made
team = torch_team()
if team is None or not torch.set_flush_denormal(True):
    print("nothing to try")
with Lent(team, 3):
    run_on_threads(lambda slot: None, 3)
torch.set_flush_denormal(False)
assert bool((x * 0.5 != 0).all()), "a thread of PyTorch's flushes what it should not"
"""


def test_a_teams_threads_get_their_own_mode_back() -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        pytest.skip("PyTorch does not compute on libgomp here, or cannot flush denormals")
