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

from flashbench.kernels.compiled import compiled_callback
from flashbench.kernels.memory import at, call_address, give_way, look, number_from, pointer, publish

# Cells of a call, which its members are given the address of.
_CALLER_DONE, _TICKETS, _WORK, _THREAD_NUMBER = range(4)
_CELLS = 4
_SPINS = 4096  # a fraction of a millisecond
_Work = Callable[[int], None]
_callback = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)


def _member(cells):
    """What each thread of the team runs, without the GIL at first.

    The caller is at work, and has released the GIL, once it has taken a ticket. Who waited for the GIL before
    would be put to sleep, and waking takes longer than a short call.
    """
    place = pointer(0, cells)
    number = number_from(at(place, _THREAD_NUMBER)[0])
    if number > 0:
        done = at(place, _CALLER_DONE)
        tickets = pointer(0, at(place, _TICKETS)[0])
        looks = 0
        while look(tickets) == 0 and look(done) == 0:
            looks += 1
            if looks > _SPINS:  # somebody else has the GIL, or the caller no core
                give_way()
    call_address(at(place, _WORK)[0], number)
    if number == 0:
        publish(at(place, _CALLER_DONE), 1)


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
        self._parallel = library.GOMP_parallel
        self._parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._parallel.restype = None
        thread_number = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value
        assert thread_number is not None
        self._thread_number = thread_number
        self._member = compiled_callback(_member, types.void(types.intp))
        self._callers = threading.local()

    def run(self, work: _Work, num_threads: int, tickets: int) -> None:
        """`run_on_threads` on these threads.

        num_threads: all that the runtime uses. Of fewer it would end the others, to start them again for the
        next of its own users.
        """
        caller = getattr(self._callers, "caller", None)
        if caller is None:
            caller = self._callers.caller = _Caller(self._thread_number)
        caller.begin(work, tickets)
        self._parallel(self._member.address, caller.address, num_threads, 0)
        caller.end()


class _Caller:
    """What one Python thread calls with, again and again."""

    def __init__(self, thread_number: int) -> None:
        self._cells = (ctypes.c_int64 * _CELLS)()
        self._function = _callback(self._run)  # has to live as long as its address
        self._cells[_WORK] = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        self._cells[_THREAD_NUMBER] = thread_number
        self.address = ctypes.addressof(self._cells)
        self._work: _Work | None = None
        self._error: BaseException | None = None
        self._finished = False

    def begin(self, work: _Work, tickets: int) -> None:
        self._cells[_CALLER_DONE] = 0
        self._cells[_TICKETS] = tickets
        self._work, self._error, self._finished = work, None, False

    def _run(self, slot: int) -> None:
        try:
            assert self._work is not None
            self._work(slot)
            if slot == 0:
                self._finished = True
        except BaseException as error:  # C code is between here and the caller
            self._error = error

    def end(self) -> None:
        error, finished = self._error, self._finished
        self._work = self._error = None
        if error is not None:
            raise error
        if not finished:  # an interrupt outside of what `_run` guards: ctypes can only print it
            raise KeyboardInterrupt
