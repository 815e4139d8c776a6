"""A call that several threads work on: its cells, and what machine code does with them.

Helpers join a call, do their share and leave it without the GIL: a thread that asks for the GIL while another
holds it is put to sleep, and to wake it takes longer than a short call. So the cells of a call are never
freed; a pool uses them again. A helper that comes late finds no seat, whatever the cells are used for then.

A caller opens the call with some seats. A helper takes one, reads what to do, and is inside until it leaves.
The caller closes the call by an `Ending`, in machine code: it takes the seats away and waits for the helpers
that are inside. If the caller waited in Python, an exception could end the wait early. Helpers would then
work on arrays that their owner may free, because the call looks finished.
"""

from __future__ import annotations

import ctypes
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from numba import types

from flashbench.codegen.atomics import compare_exchange, fetch_add, give_way, look, nap
from flashbench.codegen.calls import call_address, call_kernel
from flashbench.codegen.compiled import compiled_callback
from flashbench.codegen.pointers import address_in, at, pointer
from flashbench.codegen.steps import step
from flashbench.endings import ENDING, Ending
from flashbench.threads.floating_point import MODE_BYTES, mode_addresses

MASK_WORDS = 16  # of Linux's sets of cores: 1,024 cores
MOST_OPTIONS = 2  # of a kernel

# The cells. STATE changes while helpers read the others, so it is 64 bytes from them: on a cache line of its
# own, wherever the cells begin.
NEXT, SEATS, KERNEL, ADDRESS, OPTION_COUNT, CALLBACK, TEAM, STARTED = range(8)
STATE = 16
GET_MODE, SET_MODE, CORES_GIVEN, OPTIONS = range(24, 28)
MODE = OPTIONS + MOST_OPTIONS
TAKEN = MODE + MODE_BYTES // 8  # the cores that threads of the call run on
ALLOWED = TAKEN + MASK_WORDS  # the cores that they may run on
CELLS = ALLOWED + MASK_WORDS

# STATE is the sum of the free seats and of INSIDE for each helper that is inside.
INSIDE = 1 << 16
_FREE = INSIDE - 1
# A waiting caller spins for some microseconds. Then it yields its core between looks, and after a millisecond
# it sleeps between them: under a CPU quota, its waiting takes CPU time from its helpers.
_SPINS, _YIELDS = 256, 2000

Work = Callable[[int], None]
_callback = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t)


@step
def take_seat(call):
    """Enter the call. Returns the slot of the seat, 1 or more; 0: none is free."""
    state = at(call, STATE)
    seen = look(state)
    while seen & _FREE:
        if compare_exchange(state, seen, seen - 1 + INSIDE):
            return call[SEATS] - (seen & _FREE) + 1
        seen = look(state)
    return 0


@step
def has_seat(call):
    """Whether a seat is free at this moment."""
    return look(at(call, STATE)) & _FREE != 0


@step
def leave(call):
    """The caller's arrays, and the cells, must not be touched after it."""
    fetch_add(at(call, STATE), -INSIDE)


@step
def do_share(call, slot):
    """Run the kernel of the call, or its Python function, which takes the GIL itself."""
    if call[KERNEL] == 0:
        call_address(call[CALLBACK], (slot,))
    elif call[OPTION_COUNT] == 0:
        call_kernel(call[KERNEL], (call[ADDRESS], slot))
    elif call[OPTION_COUNT] == 1:
        call_kernel(call[KERNEL], (call[ADDRESS], slot, call[OPTIONS]))
    else:
        call_kernel(call[KERNEL], (call[ADDRESS], slot, call[OPTIONS], at(call, OPTIONS + 1)[0]))


@step
def note_mode(call):
    """Keep the calling thread's floating-point mode: all threads compute in it."""
    if call[GET_MODE] != 0:
        call_address(call[GET_MODE], (address_in(at(call, MODE)),))


@step
def adopt_mode(call):
    """Put the calling thread into the mode of the call."""
    if call[SET_MODE] != 0:
        call_address(call[SET_MODE], (address_in(at(call, MODE)),))


def _close(cells, kind, error, traceback):
    call = pointer(0, cells)
    state = at(call, STATE)
    seen = look(state)
    while not compare_exchange(state, seen, seen - (seen & _FREE)):
        seen = look(state)
    looks = 0
    while look(state) >= INSIDE:
        looks += 1
        if looks > _YIELDS:
            nap()
        elif looks > _SPINS:
            give_way()


@functools.cache
def _closing() -> Callable[..., None]:
    n = types.intp
    return ENDING(compiled_callback(_close, types.void(n, n, n, n)).address)


class Call:
    """The cells of a call, and its Python function if that is what threads run.

    One caller at a time uses it. It must never be freed: see above.
    """

    def __init__(self) -> None:
        self.cells = (ctypes.c_int64 * CELLS)()
        self.address = ctypes.addressof(self.cells)
        self.closed_behind = Ending(_closing(), self.address)
        self._function = _callback(self._run)  # must live as long as its address is used
        self.cells[CALLBACK] = ctypes.cast(self._function, ctypes.c_void_p).value or 0
        self.cells[GET_MODE], self.cells[SET_MODE] = mode_addresses()
        self._work: Work | None = None
        self._error: BaseException | None = None

    @property
    def threads_inside(self) -> int:
        """Helpers that are at work on it."""
        return int(self.cells[STATE]) // INSIDE

    def set_work(self, work: Work) -> None:
        """What helpers will do: work(slot), in Python."""
        self._work = work
        self.cells[KERNEL] = 0

    def set_kernel(self, kernel: Any, address: int, options: Sequence[int]) -> None:
        """What helpers will do: kernel(address, slot, *options), a `compiled` function of integers."""
        cells = self.cells
        cells[KERNEL] = entry_of(kernel, 2 + len(options))
        cells[ADDRESS], cells[OPTION_COUNT] = address, len(options)
        for number, option in enumerate(options):
            cells[OPTIONS + number] = option

    def finish(self) -> BaseException | None:
        """Forget the work, so that its arrays are its caller's to free. Returns a helper's exception."""
        error, self._error, self._work = self._error, None, None
        return error

    def _run(self, slot: int) -> None:
        """The work in a helper's thread. Signal handlers never run there."""
        try:
            assert self._work is not None
            self._work(slot)
        except BaseException as error:  # it cannot pass through the machine code between here and the caller
            self._error = error


class Helpers(ABC):
    """Threads that help callers. They keep the cells of calls, to use them again."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._spare: list[Call] = []

    @property
    def threads_inside(self) -> int:
        """Threads that are at work."""
        return sum(call.threads_inside for call in self._calls)

    def take_call(self) -> Call:
        """Cells for a caller to use, until it gives them back."""
        try:
            return self._spare.pop()
        except IndexError:
            call = Call()
            self._calls.append(call)
            self._prepare(call)
            return call

    def give_back(self, call: Call) -> None:
        self._spare.append(call)

    @abstractmethod
    def _prepare(self, call: Call) -> None:
        """Make new cells known to the threads."""

    def closed_behind(self, call: Call) -> Ending:
        """A context manager. At the end of its block the call is closed and no thread is inside."""
        return call.closed_behind

    @abstractmethod
    def open(self, call: Call, helpers: int) -> None:
        """Let up to `helpers` threads work on the call."""


@functools.cache  # a kernel lives as long as the process
def entry_of(kernel: Any, arguments: int) -> int:
    """The address of a compiled function of so many integers, for `call_kernel`."""
    signature = (types.intp,) * arguments
    kernel.compile(signature)
    made = kernel.overloads[signature]
    address: int = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)
    return address
