"""A thread pool for kernels that release the GIL. It sleeps between calls, and works from any thread and
after a fork.

Numba's own pools cannot do that. Its workqueue layer aborts if two Python threads call at once. Its OpenMP
layer dies after a fork. An idle OpenMP pool keeps spinning, and slows down what is timed next. Threads here
look for calls for some 40 microseconds, as a program's next call often comes at once, and then sleep. Tasks
are handed out by ticket, so a call never waits for a thread that is busy elsewhere: the caller does the tasks
that no other thread takes.

A helper finds work, does it and sleeps in machine code (call.py says why).
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from numba import types

from flashbench.codegen.atomics import compare_exchange, fetch_add, look
from flashbench.codegen.compiled import compiled_callback
from flashbench.codegen.pointers import at, pointer
from flashbench.codegen.steps import step
from flashbench.system.cores import available_cores as available_cores  # importable from here, as before
from flashbench.threads import semaphore
from flashbench.threads.call import (
    NEXT,
    SEATS,
    STATE,
    Call,
    Helpers,
    Work,
    adopt_mode,
    do_share,
    has_seat,
    leave,
    note_mode,
    take_seat,
)
from flashbench.threads.cores import give_cores, note_cores, take_core

if TYPE_CHECKING:
    from flashbench.threads.openmp import OpenMPTeam

# The cells of a pool. Threads that look for work read the first, and change the second, so they are apart.
_FIRST_CALL, _SLEEPERS, _SEMAPHORE = 0, 16, 32
_CELLS = _SEMAPHORE + semaphore.CELLS
_LOOKS = 1000  # of a thread before it sleeps: 40 us on an Intel Xeon (Emerald Rapids)


@step
def _help_some_call(pool):
    """Do a share of a call that has a free seat. Returns whether there was one."""
    address = look(at(pool, _FIRST_CALL))
    while address != 0:
        call = pointer(0, address)
        slot = take_seat(call)
        if slot:
            adopt_mode(call)
            take_core(call)
            do_share(call, slot)
            leave(call)
            return True
        address = look(at(call, NEXT))
    return False


@step
def _any_seat(pool):
    address = look(at(pool, _FIRST_CALL))
    while address != 0:
        call = pointer(0, address)
        if has_seat(call):
            return True
        address = look(at(call, NEXT))
    return False


@step
def _take_sleepers(pool, most):
    """Count up to `most` threads less that sleep. Returns how many: whoever counts them less wakes them."""
    sleepers = at(pool, _SLEEPERS)
    seen = look(sleepers)
    taken = min(seen, most)
    while taken > 0 and not compare_exchange(sleepers, seen, seen - taken):
        seen = look(sleepers)
        taken = min(seen, most)
    return taken


def _serve(cells, sleeps):
    """What a thread of the pool does. Returns when it should sleep, if it cannot do that here.

    It counts itself as sleeping first and looks once more then. So either it sees a call that opens at that
    moment, or its caller sees the sleeper.
    """
    pool = pointer(0, cells)
    looks = 0
    while True:
        if _help_some_call(pool):
            looks = 0
        elif looks < _LOOKS:
            looks += 1
        else:
            fetch_add(at(pool, _SLEEPERS), 1)
            if _any_seat(pool) and _take_sleepers(pool, 1):
                looks = 0
            elif sleeps:
                semaphore.wait(at(pool, _SEMAPHORE))
            else:
                return


def _open(cells, call_cells, seats):
    """Give a call its seats. Returns how many threads are to be woken; where machine code can, it has."""
    pool, call = pointer(0, cells), pointer(0, call_cells)
    note_mode(call)
    note_cores(call)
    call[SEATS] = seats
    fetch_add(at(call, STATE), seats)
    asleep = _take_sleepers(pool, seats)
    for _ in range(asleep):
        semaphore.post(at(pool, _SEMAPHORE))
    return asleep


def _begin(cells):
    semaphore.begin(at(pointer(0, cells), _SEMAPHORE))


def _add(cells, call_cells):
    """Put a call into the list that threads look through. It stays there."""
    first, call = at(pointer(0, cells), _FIRST_CALL), pointer(0, call_cells)
    call[NEXT] = look(first)
    while not compare_exchange(first, call[NEXT], call_cells):
        call[NEXT] = look(first)


class _MachineCode:
    """The functions above, as Python calls them. All but `serve` keep the GIL, as they take microseconds."""

    def __init__(self) -> None:
        size, n = ctypes.c_ssize_t, types.intp
        self._made: list[Any] = []
        self.serve = self._make(_serve, ctypes.CFUNCTYPE(None, size, size), types.void(n, n))
        self.open = self._make(_open, ctypes.PYFUNCTYPE(size, size, size, size), n(n, n, n))
        self.begin = self._make(_begin, ctypes.PYFUNCTYPE(None, size), types.void(n))
        self.add = self._make(_add, ctypes.PYFUNCTYPE(None, size, size), types.void(n, n))

    def _make(self, function: Callable[..., Any], kind: Any, signature: Any) -> Callable[..., Any]:
        callback = compiled_callback(function, signature)
        self._made.append(callback)
        made: Callable[..., Any] = kind(callback.address)
        return made


_machine_code = functools.cache(_MachineCode)
_immortal: list[Any] = []  # what threads of pools read: a thread never ends


class _Pool(Helpers):
    def __init__(self, *, sleeps: bool = semaphore.IS_USABLE) -> None:
        """sleeps: threads sleep in machine code. If not, they do in Python, by a queue."""
        super().__init__()
        cells = (ctypes.c_int64 * _CELLS)()
        _immortal.append(cells)
        self._address = ctypes.addressof(cells)
        self._code = _machine_code()
        self._code.begin(self._address)
        self._sleeps = sleeps
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._started: list[None] = []  # one entry per thread; list.append needs no lock
        self._warned = False

    def _prepare(self, call: Call) -> None:
        _immortal.append(call)
        self._code.add(self._address, call.address)

    def open(self, call: Call, helpers: int) -> None:
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
        give_cores(call)
        asleep = self._code.open(self._address, call.address, min(helpers, len(self._started)))
        if not self._sleeps:
            for _ in range(asleep):
                self._bell.put(None)

    def _serve(self, number: int) -> None:
        threading.current_thread().name = f"flashbench-{number}"
        while True:
            self._code.serve(self._address, self._sleeps)
            self._bell.get()

    def _warn(self, error: RuntimeError, left: int) -> None:
        if self._warned or sys.is_finalizing():
            return
        self._warned = True
        warnings.warn(
            f"no further thread can be started ({error}): calls use {left}; raise the limit of processes "
            "(ulimit -u, a container's pids limit), or ask for fewer threads",
            RuntimeWarning,
            stacklevel=5,
        )


_pool: _Pool | None = None


def the_pool() -> _Pool:
    """The pool of this process. It is made by the first call that needs it."""
    global _pool
    if _pool is None:
        _pool = _Pool()
    return _pool


def _forget_threads() -> None:
    """In a forked child: it has none of its parent's threads."""
    global _pool
    _pool = None


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


def run_on_threads(work: Work, num_threads: int) -> None:
    """Run work(slot) in the caller (slot 0) and in up to num_threads - 1 other threads at once.

    `work` must take its tasks from a shared counter. When this function returns or raises, every call of
    `work` has returned, even if signal handlers raised meanwhile. An exception of `work` is raised here.
    Other threads compute in the caller's floating-point mode.
    """
    if num_threads == 1:
        work(0)
    else:
        _run(num_threads, lambda call: call.set_work(work), work)


def run_kernel(kernel: Any, address: int, num_threads: int, options: Sequence[int] = ()) -> None:
    """`run_on_threads` of kernel(address, slot, *options), a `compiled` function of integers.

    The other threads run it without ever taking the GIL.
    """

    def share(slot: int) -> None:
        kernel(address, slot, *options)

    if num_threads == 1:
        share(0)
    else:
        _run(num_threads, lambda call: call.set_kernel(kernel, address, options), share)


def _run(num_threads: int, set_share: Callable[[Call], None], share: Work) -> None:
    lent = _current.lent()
    team = lent.team if lent is not None and lent.size == num_threads else None
    helpers: Helpers = team or the_pool()
    call = helpers.take_call()
    try:
        set_share(call)
        with helpers.closed_behind(call):
            helpers.open(call, num_threads - 1)
            share(0)
    finally:
        error = call.finish()
        helpers.give_back(call)
    if error is not None:
        raise error
