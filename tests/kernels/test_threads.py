"""The thread pool: errors, signals, limits, fork, and calls at the same time."""

import _thread
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from flashbench.codegen.atomics import fetch_add, give_way, look
from flashbench.codegen.pointers import at, pointer
from flashbench.system.cores import available_cores
from flashbench.threads import pool as threads
from flashbench.threads import semaphore
from flashbench.threads.pool import run_kernel, run_on_threads


def test_every_slot_is_used_at_most_once_and_slot_zero_always():
    for num_threads in (1, 2, 5):
        slots = []
        run_on_threads(slots.append, num_threads)
        assert 0 in slots
        assert len(set(slots)) == len(slots) <= num_threads
        assert max(slots) < num_threads


def test_all_threads_take_part_when_the_work_lasts():
    everyone = threading.Barrier(4, timeout=20)
    run_on_threads(lambda slot: everyone.wait(), 4)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a thread's core")
def test_threads_of_a_call_start_on_cores_of_their_own():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return  # with one core, a thread cannot move to another
    getcpu = ctypes.CDLL(None).sched_getcpu
    everyone = threading.Barrier(2, timeout=20)
    shared = 0
    for _ in range(50):
        seen = {}

        def work(slot, seen=seen):
            seen[slot] = getcpu()
            everyone.wait()

        run_on_threads(work, 2)
        shared += seen[0] == seen[1]
    assert shared < 25  # Linux may move the caller itself before it starts


@pytest.mark.parametrize("guilty", [0, 1])
def test_an_error_in_any_thread_reaches_the_caller(guilty):
    everyone = threading.Barrier(2, timeout=20)

    def work(slot):
        everyone.wait()
        if slot == guilty:
            raise ValueError(f"slot {slot}")

    with pytest.raises(ValueError, match=f"slot {guilty}"):
        run_on_threads(work, 2)


@pytest.fixture(params=[True, False], ids=["sleeps-in-c", "sleeps-in-python"])
def new_pool(request, monkeypatch):
    """A pool of its own for the test. Not every system has the semaphore on which machine code sleeps."""
    if request.param and not semaphore.IS_USABLE:
        pytest.skip("machine code cannot sleep here")
    monkeypatch.setattr(threads, "_pool", threads._Pool(sleeps=request.param))


def test_callers_at_once_and_pauses_between_them_lose_no_work(new_pool):
    done = []

    def caller(number):
        for turn in range(150):
            tasks = list(range(5))

            def work(slot, tasks=tasks):
                with contextlib.suppress(IndexError):
                    while True:
                        done.append(tasks.pop())

            run_on_threads(work, 2 + number)
            assert not tasks
            if turn % 10 == 0:
                time.sleep(0.001 * number)  # so that threads go to sleep at different moments

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert len(done) == 4 * 150 * 5
    assert threads.the_pool().threads_inside == 0


def test_all_threads_take_part_after_they_slept(new_pool):
    for pause in (0, 0.02, 0, 0.02):
        time.sleep(pause)
        everyone = threading.Barrier(4, timeout=20)
        run_on_threads(lambda slot, everyone=everyone: everyone.wait(), 4)


def test_threads_without_work_use_no_time(new_pool):
    everyone = threading.Barrier(4, timeout=20)
    run_on_threads(lambda slot: everyone.wait(), 4)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@njit(nogil=True)
def _add_up(address, slot):
    fetch_add(pointer(0, address), 1)
    while look(pointer(0, address)) < 3:
        give_way()


@njit(nogil=True)
def _add_up_one(address, slot, first):
    fetch_add(at(pointer(0, address), 1 + slot), first)
    _add_up(address, slot)


@njit(nogil=True)
def _add_up_two(address, slot, first, second):
    _add_up_one(address, slot, first - second)


@pytest.mark.parametrize(
    ("kernel", "options"), [(_add_up, ()), (_add_up_one, (7,)), (_add_up_two, (9, 2))], ids=["0", "1", "2"]
)
def test_a_kernel_runs_in_every_thread_with_its_slot_and_options(kernel, options):
    for _ in range(20):
        cells = np.zeros(4, np.int64)
        run_kernel(kernel, cells.ctypes.data, 3, options)
        assert cells.tolist() == ([3, 7, 7, 7] if options else [3, 0, 0, 0])


def test_a_call_that_opens_while_no_seat_is_taken_is_not_joined_later():
    """Its caller was faster than any helper."""
    pool = threads._Pool()
    call = pool.take_call()
    seen = []
    call.set_work(seen.append)
    with pool.closed_behind(call):
        pool._code.open(pool._address, call.address, 2)  # no thread was started
    pool._started.append(None)
    _thread.start_new_thread(pool._serve, (0,))
    time.sleep(0.05)
    assert seen == []
    assert call.threads_inside == 0


class Deadline(Exception):  # noqa: N818 - what a test's or a task queue's own is called
    pass


@pytest.mark.skipif(sys.platform == "win32", reason="a signal of one's own ends a process on Windows")
def test_an_exception_of_a_signal_handler_waits_for_the_threads_that_work_on_the_callers_arrays():
    everyone = threading.Barrier(2, timeout=20)
    finished = []

    def ring(*_):
        raise Deadline

    def work(slot):
        everyone.wait()
        if slot:
            time.sleep(0.2)
            for _ in range(3):
                _thread.interrupt_main(signal.SIGUSR1)  # while the caller waits for this thread
                time.sleep(0.1)
            finished.append(slot)

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Deadline):
            run_on_threads(work, 2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert finished == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has libgomp on Linux; three interval timers")
@pytest.mark.parametrize("kind", ["pool", "openmp"])
def test_a_storm_of_signals_gets_no_caller_out_before_its_threads(kind):
    if kind == "openmp":
        pytest.importorskip("torch")
    script = Path(__file__).parents[1] / "helpers" / "signal_storm.py"
    done = subprocess.run([sys.executable, script, kind, "2000"], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    seen = json.loads(done.stdout)
    assert seen.pop("calls") == 2000
    assert seen.pop("signals") >= seen.pop("exceptions") >= seen["deadline"] > 100
    assert set(seen) <= {"right", "deadline", "two deadlines"}, seen


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of processes to reach on Windows")
def test_where_no_thread_can_be_started_the_caller_works_alone_and_says_so_once(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads._Pool())
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    slots = []
    with pytest.warns(RuntimeWarning, match=r"no further thread can be started .*: calls use 1; raise"):
        run_on_threads(slots.append, 3)
    run_on_threads(slots.append, 3)  # warnings are errors here
    assert slots == [0, 0]


def test_threads_started_before_the_limit_go_on(monkeypatch):
    monkeypatch.setattr(threads, "_pool", threads._Pool())
    everyone = threading.Barrier(2, timeout=20)
    run_on_threads(lambda slot: everyone.wait(), 2)

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    seen = []

    def work(slot):
        everyone.wait()
        seen.append(slot)

    with pytest.warns(RuntimeWarning, match="calls use 2"):
        run_on_threads(work, 4)
    assert sorted(seen) == [0, 1]


def test_a_call_inside_a_call_gets_on():
    inner = []
    run_on_threads(lambda slot: run_on_threads(inner.append, 3), 3)
    assert inner.count(0) >= 1


def test_available_cores_follow_numba_num_threads(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert available_cores() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "100000")
    assert available_cores() <= 100000


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_attention_works_in_a_forked_child():
    script = """
import os, sys
import numpy as np
from flashbench.engines import Settings, get_engine
from flashbench.problem import AttentionProblem
problem = AttentionProblem.of(300, num_heads=4)
q, k, v, do = problem.make_inputs()
engine = get_engine("flash")
def run():
    forward = engine.forward(problem, Settings(num_threads=3), q, k, v)
    return [forward.o, *engine.backward(problem, Settings(num_threads=3), do, q, k, v, forward)]
expected = run()
child = os.fork()
if child == 0:
    same = all(np.array_equal(a, b) for a, b in zip(run(), expected))
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_team_that_an_exception_left_lent_takes_no_call():
    class Team:
        def take_call(self):
            raise AssertionError("its block is over")

    lent = threads.Lent(Team(), 2)
    lent.__enter__()
    del lent  # as if a second exception had skipped the exit
    slots = []
    run_on_threads(slots.append, 2)
    assert 0 in slots


def test_a_caller_that_waits_long_sleeps():
    everyone = threading.Barrier(2, timeout=20)

    def work(slot):
        everyone.wait()
        if slot:
            time.sleep(0.5)

    before = time.process_time()
    run_on_threads(work, 2)
    assert time.process_time() - before < 0.25


def test_what_a_call_worked_on_is_its_callers_to_free_once_it_is_over():
    class Arrays:
        pass

    for _ in range(300):
        arrays = Arrays()
        last = weakref.ref(arrays)
        run_on_threads(lambda slot, arrays=arrays: None, 3)
        del arrays
        assert last() is None
