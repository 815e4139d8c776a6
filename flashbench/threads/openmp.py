"""Threads of an OpenMP runtime that other code of the process computes with, borrowed for a call.

Idle OpenMP threads spin for a while before they sleep. Between two of PyTorch's operators a pool of our own
would have to share the cores with them; as members of their team our kernels find them awake and at hand.
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

# Cells of a call, which its members are given the address of.
_STARTED, _CALLER_DONE, _TICKETS, _WORK, _SIZE, _MEMBER, _MODE, _GET_MODE, _SET_MODE = range(9)
_START, _END, _THREAD_NUMBER = range(9, 12)  # the runtime's entry points
_CELLS = 12
_SPINS = 4096  # a fraction of a millisecond
_Work = Callable[[int], None]
_callback = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)
_start_function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _member(cells):
    """What each further thread of the team runs, without the GIL at first.

    The caller is at work, and has released the GIL, once it has taken a ticket. Who waited for the GIL before
    would be put to sleep, and waking takes longer than a short call. Who leaves before needs none.
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
        if looks > _SPINS:  # somebody else has the GIL, or the caller no core
            give_way()
    if place[_SET_MODE] == 0:
        call_address(place[_WORK], (number,))
    else:
        call_in_mode(place[_WORK], number, place[_MODE], place[_GET_MODE], place[_SET_MODE])


def _start(cells):
    """Set the others to work; in one function with the note of it, so that nothing comes between."""
    place = pointer(0, cells)
    call_address(place[_START], (place[_MEMBER], cells, place[_SIZE]))
    publish(at(place, _STARTED), 1)


def _end(cells, kind, error, traceback):
    """Wait for them, if they were started."""
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
    """Not in a forked child: it has a runtime's memory, but none of its threads, and would wait for them."""
    return not _forked


class OpenMPTeam:
    """All threads of an OpenMP runtime with libgomp's entry points (Linux: libgomp.so.1), while a call lasts.

    path: of the library, which the process has loaded. Raises OSError and AttributeError where it is none.
    """

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        # In two halves: of one piece, the caller's own share would be a callback from C, where an exception
        # of a signal handler ends.
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

        num_threads: all that the runtime uses. Of fewer it would end the others, to start them again for the
        next of its own users.
        """
        # Of one Python thread, which may call within a call: from a signal handler.
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
    """What one Python thread calls with, again and again."""

    def __init__(self, member: int, entries: list[int]) -> None:
        self._cells = (ctypes.c_int64 * _CELLS)()
        self._function = _callback(self._run)  # has to live as long as its address
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
        """What a member's thread does; signal handlers do not run there."""
        try:
            assert self._work is not None
            self._work(slot)
        except BaseException as error:  # C code is between here and the caller
            self._error = error

    def finish(self) -> BaseException | None:
        error = self._error
        self._work = self._mode = self._error = None
        return error
