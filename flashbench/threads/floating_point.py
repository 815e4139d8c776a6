"""The floating-point mode of a thread: rounding, and whether denormals are flushed to zero.

A caller may have changed its own mode (`torch.set_flush_denormal(True)`); other threads do not inherit it.
All threads of a call compute in the caller's mode, so that results do not depend on which thread computed
what.
"""

from __future__ import annotations

import ctypes
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.ir import INT

MODE_BYTES = 64  # C's fenv_t is 8 to 32 bytes long
_Room = ctypes.c_char * MODE_BYTES


def _functions() -> tuple[Any, Any]:
    """C's fegetenv and fesetenv, or (None, None). The GIL stays held, as they take only nanoseconds."""
    try:
        library = ctypes.PyDLL(None)  # fails on Windows
        functions = library.fegetenv, library.fesetenv
    except (TypeError, OSError, AttributeError):
        return None, None
    for function in functions:
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    return functions


_get, _set = _functions()


def mode_addresses() -> tuple[int, int]:
    """Addresses of fegetenv and fesetenv, for machine code; zeros if the system has none."""
    if _get is None:
        return 0, 0
    get, put = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in (_get, _set))
    return get, put


class Mode:
    """The mode of the thread that makes this object, at that moment."""

    def __init__(self) -> None:
        self._kept = _Room()
        self.address = ctypes.addressof(self._kept)
        if _get is not None:
            _get(self.address)

    def adopt(self) -> None:
        """Put the calling thread into this mode."""
        if _set is not None:
            _set(self.address)


@intrinsic
def call_in_mode(typingctx: Any, address: Any, value: Any, mode: Any, get_mode: Any, set_mode: Any) -> Any:
    """Call the C function void(intptr_t) at `address` with `value`, in a given floating-point mode.

    mode: address of the mode. get_mode and set_mode: addresses of C's fegetenv and fesetenv. The thread's own
    mode is restored afterwards.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address, value, mode, get_mode, set_mode = args
        kept = cgutils.alloca_once(builder, ir.ArrayType(INT, MODE_BYTES // 8))
        own = builder.ptrtoint(kept, INT)
        act = ir.FunctionType(ir.VoidType(), [INT]).as_pointer()
        steps = ((get_mode, own), (set_mode, mode), (address, value), (set_mode, own))
        for function, argument in steps:
            builder.call(builder.inttoptr(function, act), [argument])
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, n, n, n, n), codegen
