"""Borrows for a call the threads of an OpenMP runtime that other code in the process uses, such as PyTorch.

Idle OpenMP threads spin for a while before they sleep. Between two of PyTorch's operators, our own pool would
share the cores with these spinning threads. So our kernels run on these threads instead, which are awake.
"""

from __future__ import annotations

import ctypes
import os

from numba import types

from flashbench.codegen.atomics import fetch_add
from flashbench.codegen.calls import call_address, number_from
from flashbench.codegen.compiled import compiled_callback
from flashbench.codegen.pointers import address_in, at, pointer
from flashbench.endings import ENDING, Ending
from flashbench.threads.call import (
    GET_MODE,
    INSIDE,
    MODE,
    SET_MODE,
    STARTED,
    STATE,
    TEAM,
    Call,
    Helpers,
    do_share,
    leave,
    note_mode,
)
from flashbench.threads.floating_point import call_in_mode

# Cells of a team: the runtime's entry points, and our functions that it calls.
_START, _END, _THREAD_NUMBER, _MEMBER, _SHARE = range(5)
_CELLS = 5
_start_function = ctypes.PYFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)


def _share(cells, slot):
    do_share(pointer(0, cells), slot)


def _member(cells):
    """Each thread of the team but the caller runs this. Its own floating-point mode is restored."""
    call = pointer(0, cells)
    team = pointer(0, call[TEAM])
    slot = number_from(team[_THREAD_NUMBER])
    fetch_add(at(call, STATE), INSIDE)
    if call[SET_MODE] == 0:
        do_share(call, slot)
    else:
        mode = address_in(at(call, MODE))
        call_in_mode(team[_SHARE], (cells, slot), mode, call[GET_MODE], call[SET_MODE])
    leave(call)


def _start(cells, size):
    """Start the other threads and set STARTED, in one C call: no exception can come between the two."""
    call = pointer(0, cells)
    team = pointer(0, call[TEAM])
    note_mode(call)
    call_address(team[_START], (team[_MEMBER], cells, size))
    call[STARTED] = 1


def _end(cells, kind, error, traceback):
    """Wait for the other threads, if they were started."""
    call = pointer(0, cells)
    if call[STARTED]:
        call[STARTED] = 0
        call_address(pointer(0, call[TEAM])[_END], (0,))


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def usable() -> bool:
    """False in a forked child. It has the runtime's memory but not its threads, and would wait for them."""
    return not _forked


class OpenMPTeam(Helpers):
    """Runs calls on all threads of an OpenMP runtime with libgomp's entry points (Linux: libgomp.so.1).

    path: the library, which the process has loaded. Raises OSError or AttributeError if it is not libgomp.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        library = ctypes.CDLL(path)
        # Start and end are separate calls. With GOMP_parallel the caller's share would be a callback from C,
        # which would swallow an exception from a signal handler.
        names = "GOMP_parallel_start", "GOMP_parallel_end", "omp_get_thread_num"
        entries = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in names]
        n = types.intp
        made = [
            compiled_callback(_member, types.void(n)),
            compiled_callback(_share, types.void(n, n)),
            compiled_callback(_start, types.void(n, n)),
            compiled_callback(_end, types.void(n, n, n, n)),
        ]
        member, share, start, end = (callback.address for callback in made)
        self._made = made
        self._cells = (ctypes.c_int64 * _CELLS)(*entries, member, share)
        self._start, self._end = _start_function(start), ENDING(end)

    def _prepare(self, call: Call) -> None:
        call.cells[TEAM] = ctypes.addressof(self._cells)

    def closed_behind(self, call: Call) -> Ending:
        """A context manager. At the end of its block no thread of the team works on the call."""
        return Ending(self._end, call.address)

    def open(self, call: Call, helpers: int) -> None:
        """Let `helpers` threads of the team work on the call.

        helpers: one less than the number that the runtime uses. With fewer, the runtime would end the other
        threads, and start them again for its own next user.
        """
        self._start(call.address, helpers + 1)
