"""A pool of threads for kernels without the GIL: asleep between calls, safe from any thread, after fork too.

Not Numba's own: its workqueue layer aborts when two Python threads call at once, its OpenMP layer dies
after fork, and an idle OpenMP pool goes on spinning, which robs whoever is timed next. Threads here
wait on a queue. A call never waits for a thread that is busy elsewhere: tasks are handed out by ticket,
so the caller does itself what nobody else takes.

A thread that is woken starts on its waker's core, and Linux may leave it there for seconds beside an
idle core, which halves the speed (seen on Linux 6.18 with two cores). So each looks where it is and steps
aside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from flashbench.system.affinity import process_cores
from flashbench.system.cores import available_cores as available_cores  # where it was before

if TYPE_CHECKING:
    from flashbench.kernels.openmp import OpenMPTeam


_current_core: Callable[[], int] | None = (
    getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
)


class _Cores:
    """The cores that the threads of one call are on, as far as the system lets us say."""

    def __init__(self) -> None:
        self._taken = {_current_core()} if _current_core else set()
        self._allowed = (_current_core and process_cores()) or frozenset()

    def take_one(self) -> None:
        """Move the calling pool thread off a core that another thread of the call is on."""
        if _current_core is None:
            return
        free = self._allowed - self._taken
        if _current_core() in self._taken and free:
            # The mask stays: it is a thread of ours, and it will wake where it does not disturb. A core
            # that has been taken from the process meanwhile only means that it stays where it is.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, free)
        self._taken.add(_current_core())


class _Call:
    """One call's work, open to helpers until its caller has run out of tasks."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._cores = _Cores()
        self._slots = 1  # slot 0 is the caller's
        self._running = 0
        self._open = True
        self._error: BaseException | None = None

    def help(self) -> None:
        """What a pool thread does; nothing when it comes too late."""
        with self._lock:
            if not self._open:
                return
            slot = self._slots
            self._slots += 1
            self._running += 1
            self._cores.take_one()
        try:
            self._work(slot)
        except BaseException as error:
            self._error = error
        with self._lock:
            self._running -= 1
            if not self._running:
                self._idle.notify()

    def close(self) -> None:
        """What the caller does at its end: no more helpers, and wait for those who are at work.

        Ctrl-C has to wait too: kernels know the caller's arrays by address only, and once the caller is
        gone its arrays may be.
        """
        interrupt: KeyboardInterrupt | None = None
        with self._lock:
            self._open = False
            while self._running:
                try:
                    self._idle.wait()
                except KeyboardInterrupt as stop:
                    interrupt = stop
        if interrupt is not None:
            raise interrupt
        if self._error is not None:
            raise self._error


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._threads = 0

    def ask(self, call: _Call, helpers: int) -> None:
        if self._threads < helpers:
            with self._lock:
                while self._threads < helpers:
                    name = f"flashbench-{self._threads}"
                    threading.Thread(target=self._serve, name=name, daemon=True).start()
                    self._threads += 1
        for _ in range(helpers):
            self._calls.put(call)

    def _serve(self) -> None:
        while True:
            self._calls.get().help()


_pool = _Pool()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and its locks may be held by one of them."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class _Current(threading.local):
    """A team that takes the pool's place in this Python thread, and how many threads it has."""

    team: OpenMPTeam | None = None
    size = 0


_current = _Current()


class Lent:
    """Within the block, calls of this Python thread that would take `size` threads run on the team's."""

    def __init__(self, team: OpenMPTeam | None, size: int) -> None:
        self._now = team, size

    def __enter__(self) -> None:
        self._before = _current.team, _current.size
        _current.team, _current.size = self._now

    def __exit__(self, *_: object) -> None:
        _current.team, _current.size = self._before


def run_on_threads(work: Callable[[int], None], num_threads: int, tickets: int | None = None) -> None:
    """work(slot) in the caller (slot 0) and in up to num_threads - 1 other threads at once.

    `work` must take its tasks from a shared counter and release the GIL. Returns when every call of it
    has returned; an exception of one is raised here. tickets: the counter's address, 0 at first; without it
    no team is used, whose threads wait until the caller has taken a ticket.
    """
    if num_threads == 1:
        work(0)
        return
    if _current.team is not None and tickets is not None and _current.size == num_threads:
        _current.team.run(work, num_threads, tickets)
        return
    call = _Call(work)
    try:
        _pool.ask(call, num_threads - 1)
        work(0)
    finally:
        call.close()
