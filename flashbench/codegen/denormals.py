"""Flush denormal results of vector instructions to zero in this thread, on x86.

Operands are not flushed: where float16 is widened by integers, a subnormal number is a denormal operand.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.ir import VOID, call
from flashbench.codegen.steps import step

_WORD, _BYTES = ir.IntType(32), ir.IntType(8).as_pointer()
_IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
_FLUSH = 0x8000  # FTZ in MXCSR


@intrinsic
def _flush(typingctx: Any) -> Any:
    """Begin to flush, and return the mode before. On other CPUs than x86, nothing changes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if not _IS_X86:
            return ir.Constant(_WORD, 0)
        place = builder.alloca(_WORD)
        call(builder, "llvm.x86.sse.stmxcsr", VOID, builder.bitcast(place, _BYTES))
        before = builder.load(place)
        builder.store(builder.or_(before, ir.Constant(_WORD, _FLUSH)), place)
        call(builder, "llvm.x86.sse.ldmxcsr", VOID, builder.bitcast(place, _BYTES))
        return before

    return types.int32(), codegen


@intrinsic
def _restore(typingctx: Any, mode: Any) -> Any:
    """Set the mode that `_flush` returned."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if _IS_X86:
            place = builder.alloca(_WORD)
            builder.store(args[0], place)
            call(builder, "llvm.x86.sse.ldmxcsr", VOID, builder.bitcast(place, _BYTES))
        return context.get_dummy_value()

    return types.void(types.int32), codegen


@step
def begin_flushing():
    """Begin to flush. Returns the mode before, for `end_flushing`."""
    return _flush()


@step
def end_flushing(mode):
    _restore(mode)
