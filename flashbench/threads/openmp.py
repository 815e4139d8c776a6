"""Borrows for a call the threads of an OpenMP runtime that other code in the process uses, such as PyTorch.

Idle OpenMP threads spin for a while before they sleep. Between two of PyTorch's operators, our own pool would
share the cores with these spinning threads. So our kernels run on these threads instead, which are awake.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

from numba import types

from flashbench.codegen.atomics import give_way, look, publish
from flashbench.codegen.calls import call_address, number_from
from flashbench.codegen.compiled import compiled_callback
from flashbench.codegen.pointers import at, pointer
from flashbench.endings import ENDING, Ending
from flashbench.threads.floating_point import Mode, call_in_mode, mode_addresses

# Cells of a call. Members get their address.
_STARTED, _CALLER_DONE, _TICKETS, _WORK, _SIZE, _MEMBER, _MODE, _GET_MODE, _SET_MODE = range(9)
_START, _END, _THREAD_NUMBER = range(9, 12)  # the runtime's entry points
_CELLS = 12
_SPINS = 4096  # a fraction of a millisecond
_Work = Callable[[int], None]
_callback = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)
_start_function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _member(cells):
    """Each thread of the team but the caller runs this, at first without the GIL.

    It spins until the caller has taken a ticket: from then on the caller works without the GIL. A member that
    asked for the GIL earlier would be put to sleep, and waking takes longer than a short call. If the caller
    is done before that, the member leaves without the GIL.
    """
    place = pointer(0, cells)
    number = number_from(at(place, _THREAD_NUMBER)[0])
    done = at(place, _CALLER_DONE)
    tickets = pointer(0, at(place, _TICKETS)[0])
    looks = 0
    while look(tickets) == 0:
        if look(done) != 0:
            return
        looks += 1
        if looks > _SPINS:  # another thread holds the GIL, or the caller has no core
            give_way()
    if place[_SET_MODE] == 0:
        call_address(place[_WORK], (number,))
    else:
        call_in_mode(place[_WORK], number, place[_MODE], place[_GET_MODE], place[_SET_MODE])


def _start(cells):
    """Start the other threads and set _STARTED, in one C call: no exception can come between the two."""
    place = pointer(0, cells)
    call_address(place[_START], (place[_MEMBER], cells, place[_SIZE]))
    publish(at(place, _STARTED), 1)


def _end(cells, kind, error, traceback):
    """Wait for the other threads, if they were started."""
    place = pointer(0, cells)
    publish(at(place, _CALLER_DONE), 1)
    if place[_STARTED]:
        call_address(place[_END], (0,))


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def usable() -> bool:
    """False in a forked child. It has the runtime's memory but not its threads, and would wait for them."""
    return not _forked


class OpenMPTeam:
    """Runs calls on all threads of an OpenMP runtime with libgomp's entry points (Linux: libgomp.so.1).

    path: the library, which the process has loaded. Raises OSError or AttributeError if it is not libgomp.
    """

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        # Start and end are separate calls. With GOMP_parallel the caller's share would be a callback from C,
        # which would swallow an exception from a signal handler.
        names = "GOMP_parallel_start", "GOMP_parallel_end", "omp_get_thread_num"
        self._entries = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]
        n = types.intp
        self._member = compiled_callback(_member, types.void(n))
        self._starting = compiled_callback(_start, types.void(n))
        self._ending = compiled_callback(_end, types.void(n, n, n, n))
        self._start, self._end = _start_function(self._starting.address), ENDING(self._ending.address)
        self._callers = threading.local()

    def run(self, work: _Work, num_threads: int, tickets: int) -> None:
        """`run_on_threads` on these threads.

        num_threads: must be the number that the runtime uses. With fewer, the runtime would end the other
        threads, and start them again for its own next user.
        """
        # One list per Python thread. It needs more than one caller if a signal handler calls within a call.
        spare: list[_Caller] = self._callers.__dict__.setdefault("spare", [])
        caller = spare.pop() if spare else _Caller(self._member.address, self._entries)
        caller.begin(work, num_threads, tickets)
        with Ending(self._end, caller.address):
            self._start(caller.address)
            work(0)
        error = caller.finish()
        spare.append(caller)
        if error is not None:
            raise error


class _Caller:
    """The cells and the callback of one call, used again by later calls of the same Python thread."""

    def __init__(self, member: int, entries: list[int]) -> None:
        self._cells = (ctypes.c_int64 * _CELLS)()
        self._function = _callback(self._run)  # must live as long as its address is used
        self._cells[_MEMBER] = member
        self._cells[_START], self._cells[_END], self._cells[_THREAD_NUMBER] = entries
        self._cells[_WORK] = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        self._cells[_GET_MODE], self._cells[_SET_MODE] = mode_addresses()
        self.address = ctypes.addressof(self._cells)
        self._work: _Work | None = None
        self._mode: Mode | None = None
        self._error: BaseException | None = None

    def begin(self, work: _Work, num_threads: int, tickets: int) -> None:
        self._mode = Mode()
        cells = self._cells
        cells[_STARTED] = cells[_CALLER_DONE] = 0
        cells[_TICKETS], cells[_SIZE], cells[_MODE] = tickets, num_threads, self._mode.address
        self._work, self._error = work, None

    def _run(self, slot: int) -> None:
        """The work of a member's thread. Signal handlers never run there."""
        try:
            assert self._work is not None
            self._work(slot)
        except BaseException as error:  # it cannot pass through the C code between here and the caller
            self._error = error

    def finish(self) -> BaseException | None:
        error = self._error
        self._work = self._mode = self._error = None
        return error
