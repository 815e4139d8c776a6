"""Calls on the threads of a foreign OpenMP runtime, here PyTorch's."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flashbench import attention as attention_of_arrays
from flashbench import attention_backward
from flashbench.integrations.torch import attention
from flashbench.integrations.torch.runtime import on_torch_threads, torch_team
from flashbench.threads.openmp import OpenMPTeam
from flashbench.threads.pool import Lent, run_on_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has libgomp on Linux")
SIZE = 4  # threads, on any machine: OpenMP starts as many as requested


@pytest.fixture
def team() -> OpenMPTeam:
    found = torch_team()
    assert found is not None  # PyTorch's wheels for Linux bring libgomp
    return found


def run_on(team: OpenMPTeam, work: Callable[[int], None]) -> None:
    with Lent(team, SIZE):
        run_on_threads(work, SIZE)


class Work:
    """Waits until all threads are there, so that a call needs all of them."""

    def __init__(self, fails_in: int | None = None, error: type[BaseException] = ValueError) -> None:
        self.slots: list[int] = []
        self._fails_in, self._error = fails_in, error
        self._everyone = threading.Barrier(SIZE, timeout=60)

    def __call__(self, slot: int) -> None:
        self.slots.append(slot)
        self._everyone.wait()
        if slot == self._fails_in:
            raise self._error(f"slot {slot}")


def test_every_thread_has_a_slot_of_its_own(team: OpenMPTeam) -> None:
    for _ in range(3):
        work = Work()
        run_on(team, work)
        assert sorted(work.slots) == list(range(SIZE))


@pytest.mark.parametrize("guilty", [0, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_any_thread_reaches_the_caller(
    team: OpenMPTeam, guilty: int, error: type[BaseException]
) -> None:
    work = Work(guilty, error)
    with pytest.raises(error, match=f"slot {guilty}"):
        run_on(team, work)
    after = Work()
    run_on(team, after)
    assert len(after.slots) == SIZE


def test_a_signal_handler_that_calls_within_a_call_disturbs_neither(team: OpenMPTeam) -> None:
    outer: list[int] = []
    inner: list[int] = []

    def call_within(*_: object) -> None:
        run_on(team, inner.append)

    def work(slot: int) -> None:
        if slot == 0:
            signal.raise_signal(signal.SIGUSR1)
        outer.append(slot)

    before = signal.signal(signal.SIGUSR1, call_within)
    try:
        run_on(team, work)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert inner[0] == 0
    assert sorted(outer) == list(range(SIZE))


def test_python_threads_call_at_once(team: OpenMPTeam) -> None:
    works = [Work() for _ in range(3)]
    callers = [threading.Thread(target=run_on, args=(team, work)) for work in works]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sorted(work.slots) for work in works] == [list(range(SIZE))] * 3


def test_the_pool_serves_who_takes_more_threads() -> None:
    with on_torch_threads():
        size = torch.get_num_threads() + 1
        names: list[str] = []
        everyone = threading.Barrier(size, timeout=60)

        def work(slot: int) -> None:
            everyone.wait()
            names.append(threading.current_thread().name)

        run_on_threads(work, size)
    assert sum(name.startswith("flashbench-") for name in names) == size - 1


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ["flash", "standard"])
def test_the_bits_are_those_of_the_pool(
    engine: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    start = OpenMPTeam.open
    monkeypatch.setattr(OpenMPTeam, "open", lambda *given: (calls.append(1), start(*given)))
    monkeypatch.setattr("flashbench.integrations.torch.runtime.available_cores", lambda: 2)
    leaves = [torch.randn(1, 4, 700, 64, requires_grad=True) for _ in range(3)]
    o = attention(*leaves, causal=True, engine=engine)
    gradients = torch.autograd.grad(o, leaves, torch.ones_like(o))
    assert len(calls) == (2 if engine == "flash" else 7)
    arrays = [x.detach().numpy() for x in leaves]
    options = {"causal": True, "engine": engine, "num_threads": 2}
    expected, lse = attention_of_arrays(*arrays, return_lse=True, **options)
    np.testing.assert_array_equal(o.detach().numpy(), expected)
    found = attention_backward(np.ones_like(expected), *arrays, expected, lse, **options)
    for a, b in zip(gradients, found, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


def test_a_forked_child_takes_the_pool(two_threads: None) -> None:
    leaves = [torch.randn(1, 4, 700, 64) for _ in range(3)]
    expected = attention(*leaves).numpy()
    child = os.fork()
    if child == 0:  # only os._exit from here
        # Compared by NumPy: PyTorch's own operators would wait for ever for the parent's threads.
        same = torch_team() is None and np.array_equal(attention(*leaves).numpy(), expected)
        os._exit(0 if same else 1)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child waits for threads that it does not have")
