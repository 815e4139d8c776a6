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
from flashbench.system.cores import available_cores as available_cores  # where it was before
from flashbench.threads.floating_point import Mode
from flashbench.threads.gate import Gate

if TYPE_CHECKING:
    from flashbench.threads.openmp import OpenMPTeam


_current_core: Callable[[], int] | None = (
    getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
)


class _Cores:
    """The cores that the threads of one call are on, as far as the system lets us say."""

    def __init__(self) -> None:
        self._taken = {_current_core()} if _current_core else set()
        self._allowed = (_current_core and process_cores()) or frozenset()
        self._lock = threading.Lock()  # of helpers, whom nothing interrupts

    def take_one(self) -> None:
        """Move the calling pool thread off a core that another thread of the call is on."""
        if _current_core is None:
            return
        with self._lock:
            free = self._allowed - self._taken
            if _current_core() in self._taken and free:
                # The mask stays: it is a thread of ours, and it will wake where it does not disturb. A core
                # that has been taken from the process meanwhile only means that it stays where it is.
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, free)
            self._taken.add(_current_core())


class _Call:
    """One call's work, open to helpers until its caller has run out of tasks."""

    _gate: Gate

    def __init__(self, work: Callable[[int], None]) -> None:
        self.error: BaseException | None = None
        self.work = work
        self._mode = Mode()
        self._cores = _Cores()

    def open_to(self, helpers: int) -> Ending:
        """Within this block helpers may come; at its end, none is at work nor will be."""
        self._gate = Gate(helpers)
        return self._gate.closed_behind()

    def help(self, helper: int) -> None:
        """What a pool thread does; nothing when it comes too late."""
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
        self._started: list[None] = []  # one a thread; appending to a list takes no lock
        self._warned = False

    def ask(self, call: _Call, helpers: int) -> None:
        """Let pool threads help, as many as there are of those wanted.

        An exception in here, or two callers at once, may start a thread too many, which sleeps.
        """
        while len(self._started) < helpers:
            try:
                # Not by `threading`: its `start` waits, and what interrupts that breaks its locks.
                _thread.start_new_thread(self._serve, (len(self._started),))
            except RuntimeError as error:
                self._tell(error, 1 + len(self._started))
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

    def _tell(self, error: RuntimeError, left: int) -> None:
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
    """A forked child has none of its parent's threads, and its locks may be held by one of them."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class Lent:
    """Within the block, calls of this Python thread that would take `size` threads run on the team's."""

    def __init__(self, team: OpenMPTeam | None, size: int) -> None:
        self.team, self.size = team, size

    def __enter__(self) -> None:
        self._before = _current.lent
        # Weakly: `with` keeps it alive for as long as the block lasts, also where a second exception of a
        # signal handler skips the exit.
        _current.lent = weakref.ref(self)

    def __exit__(self, *_: object) -> None:
        _current.lent = self._before


class _Current(threading.local):
    """What takes the pool's place in this Python thread."""

    lent: Callable[[], Lent | None] = staticmethod(lambda: None)


_current = _Current()


def run_on_threads(work: Callable[[int], None], num_threads: int, tickets: int | None = None) -> None:
    """work(slot) in the caller (slot 0) and in up to num_threads - 1 other threads at once.

    `work` must take its tasks from a shared counter and release the GIL. Every call of it has returned when
    this returns or raises, whatever signal handlers raise meanwhile; an exception of one is raised here.
    Other threads compute in the caller's floating-point mode. tickets: the counter's address, 0 at first;
    without it no team is used, whose threads wait until the caller has taken a ticket.
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
    # A helper that came late may still have the call at hand, but no longer what its caller frees now.
    del call.work
    if call.error is not None:
        raise call.error
