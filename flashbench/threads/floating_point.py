"""The floating-point mode of a thread: rounding, and whether denormals are flushed to zero.

A caller may have changed its own mode (`torch.set_flush_denormal(True)`); other threads do not inherit it.
All threads of a call compute in the caller's mode, so that results do not depend on which thread computed
what.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.ir import INT

MODE_BYTES = 64  # C's fenv_t is 8 to 32 bytes long


@functools.cache
def mode_addresses() -> tuple[int, int]:
    """Addresses of C's fegetenv and fesetenv, for machine code; zeros if the system has none."""
    try:
        library = ctypes.CDLL(None)  # fails on Windows
        functions = library.fegetenv, library.fesetenv
    except (TypeError, OSError, AttributeError):
        return 0, 0
    get, put = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return get, put


@intrinsic
def call_in_mode(typingctx: Any, address: Any, values: Any, mode: Any, get_mode: Any, set_mode: Any) -> Any:
    """Call the C function void(intptr_t, ...) at `address` in a given floating-point mode.

    values: a tuple of its arguments. mode: address of the mode. get_mode and set_mode: addresses of C's
    fegetenv and fesetenv. The thread's own mode is restored afterwards.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address, values_, mode, get_mode, set_mode = args
        given = cgutils.unpack_tuple(builder, values_, values.count)
        kept = cgutils.alloca_once(builder, ir.ArrayType(INT, MODE_BYTES // 8))
        own = builder.ptrtoint(kept, INT)
        for function, arguments in (
            (get_mode, [own]),
            (set_mode, [mode]),
            (address, given),
            (set_mode, [own]),
        ):
            act = ir.FunctionType(ir.VoidType(), [INT] * len(arguments)).as_pointer()
            builder.call(builder.inttoptr(function, act), arguments)
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, types.UniTuple(n, values.count), n, n, n), codegen
