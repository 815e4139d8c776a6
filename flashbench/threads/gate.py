"""The gate of a call. Helpers enter and leave; the caller closes it and waits for the helpers inside.

Each helper has one cell with its state, so that no lock is needed. The caller closes the gate by an `Ending`,
in machine code. If the caller waited in Python, an exception could end the wait early. Helpers would then
work on arrays that their owner may free, because the call looks finished.
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

# A helper's cell is the sum of these. A helper never leaves without entering.
_ENTERED, _CLOSED, _LEFT = 1, 2, 4
_CELL_BYTES = 8
# A waiting caller spins for some microseconds. Then it yields its core between looks, and after a millisecond
# it sleeps between them: under a CPU quota, its waiting takes CPU time from its helpers.
_SPINS, _YIELDS = 256, 2000


class Gate:
    """The gate of a call with helpers 0, 1, ... helpers - 1."""

    def __init__(self, helpers: int) -> None:
        self._cells = (ctypes.c_int64 * (1 + helpers))(helpers)
        self._address = ctypes.addressof(self._cells)

    def enter(self, helper: int) -> bool:
        """Let a helper in. False: the gate is closed. True: the caller will wait for its `leave`."""
        return bool(_enter(self._cell(helper)))

    def leave(self, helper: int) -> None:
        """Let a helper out. It must not touch the caller's arrays any more."""
        _leave(self._cell(helper))

    def closed_behind(self) -> Ending:
        """A context manager. At the end of its block the gate is closed and no helper is inside."""
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
    # Compile now: if a helper had to compile and failed, its caller would wait for ever.
    for function in (_enter, _leave):
        function.compile((n,))
    return ENDING(compiled_callback(_close, types.void(n, n, n, n)).address)
