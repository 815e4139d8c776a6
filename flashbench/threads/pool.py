"""A thread pool for kernels that release the GIL. It sleeps between calls, and works from any thread and
after a fork.

Numba's own pools cannot do that. Its workqueue layer aborts if two Python threads call at once. Its OpenMP
layer dies after a fork. An idle OpenMP pool keeps spinning, and slows down what is timed next. Threads here
wait on a queue. Tasks are handed out by ticket, so a call never waits for a thread that is busy elsewhere:
the caller does the tasks that no other thread takes.

Linux starts a woken thread on the core of the thread that woke it. It may leave it there for seconds next to
an idle core, which halves the speed (observed on Linux 6.18 with two cores). So each thread looks where it
runs, and moves to a free core.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from flashbench.endings import Ending
from flashbench.system.affinity import process_cores
from flashbench.system.cores import available_cores as available_cores  # importable from here, as before
from flashbench.threads.floating_point import Mode
from flashbench.threads.gate import Gate

if TYPE_CHECKING:
    from flashbench.threads.openmp import OpenMPTeam


_current_core: Callable[[], int] | None = (
    getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
)


class _Cores:
    """The cores that the threads of one call run on; empty if the system does not tell."""

    def __init__(self) -> None:
        self._taken = {_current_core()} if _current_core else set()
        self._allowed = (_current_core and process_cores()) or frozenset()
        self._lock = threading.Lock()  # only helpers take it, and signal handlers do not run in them

    def take_one(self) -> None:
        """Move the calling pool thread to a free core if another thread of the call runs on its core."""
        if _current_core is None:
            return
        with self._lock:
            free = self._allowed - self._taken
            if _current_core() in self._taken and free:
                # The mask stays: the thread is ours, and next time it wakes on one of these cores. If the
                # process has lost these cores meanwhile, the call fails and the thread stays where it is.
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, free)
            self._taken.add(_current_core())


class _Call:
    """The work of one call. Helpers may join until the caller has no more tasks."""

    _gate: Gate

    def __init__(self, work: Callable[[int], None]) -> None:
        self.error: BaseException | None = None
        self.work = work
        self._mode = Mode()
        self._cores = _Cores()

    def open_to(self, helpers: int) -> Ending:
        """Within this block helpers may join. At its end none is at work, and none will be."""
        self._gate = Gate(helpers)
        return self._gate.closed_behind()

    def help(self, helper: int) -> None:
        """Run the work in a pool thread. Does nothing if the gate is closed."""
        if not self._gate.enter(helper):
            return
        try:
            self._mode.adopt()
            self._cores.take_one()
            self.work(1 + helper)  # slot 0 is the caller's
        except BaseException as error:
            self.error = error
        finally:
            self._gate.leave(helper)


class _Pool:
    def __init__(self) -> None:
        self._tickets: SimpleQueue[tuple[_Call, int]] = SimpleQueue()
        self._started: list[None] = []  # one entry per thread; list.append needs no lock
        self._warned = False

    def ask(self, call: _Call, helpers: int) -> None:
        """Let up to `helpers` pool threads help, fewer if no more can be started.

        An exception in here, or two callers at once, may start one thread too many. That thread only sleeps.
        """
        while len(self._started) < helpers:
            try:
                # Not threading.Thread: its `start` waits, and an exception in that wait breaks its locks.
                _thread.start_new_thread(self._serve, (len(self._started),))
            except RuntimeError as error:
                self._warn(error, 1 + len(self._started))
                break
            self._started.append(None)
        for helper in range(min(helpers, len(self._started))):
            self._tickets.put((call, helper))

    def _serve(self, number: int) -> None:
        threading.current_thread().name = f"flashbench-{number}"
        while True:
            call, helper = self._tickets.get()
            call.help(helper)
            del call

    def _warn(self, error: RuntimeError, left: int) -> None:
        if self._warned or sys.is_finalizing():
            return
        self._warned = True
        warnings.warn(
            f"no further thread can be started ({error}): calls use {left}; raise the limit of processes "
            "(ulimit -u, a container's pids limit), or ask for fewer threads",
            RuntimeWarning,
            stacklevel=4,
        )


_pool = _Pool()


def _forget_threads() -> None:
    """In a forked child: it has none of its parent's threads, and one of them may hold the pool's locks."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Lent:
    """Within the block, calls of this Python thread with `size` threads run on the team's threads."""

    def __init__(self, team: OpenMPTeam | None, size: int) -> None:
        self.team, self.size = team, size

    def __enter__(self) -> None:
        self._before = _current.lent
        # A weak reference: `with` keeps this object alive only during the block. That holds even if a signal
        # handler's second exception skips __exit__.
        _current.lent = weakref.ref(self)

    def __exit__(self, *_: object) -> None:
        _current.lent = self._before


class _Current(threading.local):
    """The team that takes the pool's place in this Python thread."""

    lent: Callable[[], Lent | None] = staticmethod(lambda: None)


_current = _Current()


def run_on_threads(work: Callable[[int], None], num_threads: int, tickets: int | None = None) -> None:
    """Run work(slot) in the caller (slot 0) and in up to num_threads - 1 other threads at once.

    `work` must take its tasks from a shared counter and release the GIL. When this function returns or
    raises, every call of `work` has returned, even if signal handlers raised meanwhile. An exception of
    `work` is raised here. Other threads compute in the caller's floating-point mode.

    tickets: address of the counter, which must be 0 at first. A team's threads wait until the caller has
    taken a ticket, so without the address no team is used.
    """
    if num_threads == 1:
        work(0)
        return
    lent = _current.lent()
    if lent is not None and lent.team is not None and tickets is not None and lent.size == num_threads:
        lent.team.run(work, num_threads, tickets)
        return
    call = _Call(work)
    with call.open_to(num_threads - 1):
        _pool.ask(call, num_threads - 1)
        work(0)
    # A late helper may still hold `call`. Drop the work, so that its arrays are freed when the caller is
    # done.
    del call.work
    if call.error is not None:
        raise call.error
