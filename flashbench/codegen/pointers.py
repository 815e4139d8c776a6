"""Pointers: kernels get arrays as addresses and strides.

From array arguments Numba would compile a kernel again for every mix of contiguous and strided arrays. With a
table of addresses and strides there is one machine code per dtype.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import Half
from flashbench.codegen.ir import INT, call, const, load_one, loop


@intrinsic
def pointer(typingctx: Any, like: Any, address: Any) -> Any:
    """The address as a pointer to elements of the type of `like`, a value or a type itself."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(getattr(like, "instance_type", like))(like, types.intp), codegen


@intrinsic
def at(typingctx: Any, base: Any, offset: Any) -> Any:
    """The pointer base + offset; offset counts elements."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return base(base, types.intp), codegen


@intrinsic
def number_at(typingctx: Any, base: Any, offset: Any) -> Any:
    """base[offset]; of a 16-bit float, its float32 number."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return load_one(builder, *args)

    number = types.float32 if isinstance(base.dtype, Half) else base.dtype
    return number(base, types.intp), codegen


@intrinsic
def at_bytes(typingctx: Any, base: Any, offset: Any) -> Any:
    """base + offset, in bytes."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address = builder.add(builder.ptrtoint(args[0], INT), args[1])
        return builder.inttoptr(address, args[0].type)

    return base(base, types.intp), codegen


@intrinsic
def recast(typingctx: Any, like: Any, base: Any) -> Any:
    """The same address as a pointer to elements of `like`'s type."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(like)(like, base), codegen


@intrinsic
def address_in(typingctx: Any, base: Any) -> Any:
    """The pointer as a whole number."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], INT)

    return types.intp(base), codegen


_LINE = 64


def prefetch(builder: ir.IRBuilder, place: ir.Value) -> None:
    """Prefetch the cache line of an address. The address may be past the end of an array."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    reading, nearest, data = ir.Constant(word, 0), ir.Constant(word, 3), ir.Constant(word, 1)
    where = builder.bitcast(place, byte)
    call(builder, "llvm.prefetch.p0i8", ir.VoidType(), where, reading, nearest, data)


@intrinsic
def prefetch_rows(typingctx: Any, address: Any, rows: Any, stride: Any, size: Any) -> Any:
    """Prefetch `size` bytes of each of `rows` rows, which are `stride` bytes apart."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        start, rows, stride, size = args
        whole = builder.add(size, const(_LINE - 1))
        with (
            loop(builder, rows, carry=[]) as (row, _, _),
            loop(builder, whole, step=_LINE, carry=[]) as (offset, _, _),
        ):
            line = builder.add(builder.add(start, builder.mul(row, stride)), offset)
            prefetch(builder, builder.inttoptr(line, ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    n = types.intp
    return types.void(n, n, n, n), codegen
