"""Calls functions by their address."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.ir import INT


@intrinsic
def call_address(typingctx: Any, address: Any, values: Any) -> Any:
    """Call the C function void(intptr_t, ...) at the address. values: a tuple of its arguments."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1], values.count)
        function = ir.FunctionType(ir.VoidType(), [INT] * values.count)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, values.count)), codegen


@intrinsic
def number_from(typingctx: Any, address: Any) -> Any:
    """Call the C function int(void) at the address, and return its result."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), [])
        found = builder.call(builder.inttoptr(args[0], function.as_pointer()), [])
        return builder.sext(found, INT)

    return types.intp(types.intp), codegen


@intrinsic
def call_kernel(typingctx: Any, entry: Any, values: Any) -> Any:
    """Call a function that Numba compiled: void(intp, ...), which cannot raise. values: a tuple of arguments.

    Numba's calling convention: the first two arguments are addresses for a result and an error.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1], values.count)
        byte = ir.IntType(8).as_pointer()
        outputs = [cgutils.alloca_once(builder, byte) for _ in range(2)]
        kinds = [byte.as_pointer()] * 2 + [INT] * values.count
        function = ir.FunctionType(ir.IntType(32), kinds)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), [*outputs, *given])
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, values.count)), codegen
