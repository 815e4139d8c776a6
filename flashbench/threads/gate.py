"""The gate of a call: helpers go in and come out, and its caller closes it and waits for those inside.

A cell a helper tells what it has done, so that each can be asked without a lock. A caller closes the gate
by an `Ending`, in machine code: an exception that got out of a wait in Python would leave helpers at work on
arrays which their owner, told that the call is over, may free.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from numba import types

from flashbench.codegen.atomics import fetch_add, give_way, look, nap
from flashbench.codegen.compiled import compiled, compiled_callback
from flashbench.codegen.pointers import at, pointer
from flashbench.endings import ENDING, Ending

# What adds up in a helper's cell. An exit without an entrance does not happen.
_ENTERED, _CLOSED, _LEFT = 1, 2, 4
_CELL_BYTES = 8
# A caller that waits spins for some microseconds, then gives its core away between looks, and after a
# millisecond sleeps between them: under a CPU quota its waiting is its helpers' time.
_SPINS, _YIELDS = 256, 2000


class Gate:
    """Of a call with helpers 0, 1, ... helpers - 1."""

    def __init__(self, helpers: int) -> None:
        self._cells = (ctypes.c_int64 * (1 + helpers))(helpers)
        self._address = ctypes.addressof(self._cells)

    def enter(self, helper: int) -> bool:
        """Whether the helper is in; not if the caller has left, which it now will not do before `leave`."""
        return bool(_enter(self._cell(helper)))

    def leave(self, helper: int) -> None:
        """The helper is out, and touches the caller's arrays no more."""
        _leave(self._cell(helper))

    def closed_behind(self) -> Ending:
        """At the end of this `with` block the gate is shut and nobody is inside."""
        return Ending(_closing(), self._address)

    def _cell(self, helper: int) -> int:
        return self._address + _CELL_BYTES * (1 + helper)


@compiled
def _enter(cell):
    return fetch_add(pointer(0, cell), _ENTERED) == 0


@compiled
def _leave(cell):
    fetch_add(pointer(0, cell), _LEFT)


def _close(cells, kind, error, traceback):
    place = pointer(0, cells)
    for helper in range(place[0]):
        cell = at(place, 1 + helper)
        if fetch_add(cell, _CLOSED) == _ENTERED:
            looks = 0
            while look(cell) < _LEFT:
                looks += 1
                if looks > _YIELDS:
                    nap()
                elif looks > _SPINS:
                    give_way()


@functools.cache
def _closing() -> Callable[..., None]:
    n = types.intp
    for function in (_enter, _leave):  # a helper that had to compile might fail, and its caller wait for ever
        function.compile((n,))
    return ENDING(compiled_callback(_close, types.void(n, n, n, n)).address)
