"""Small intrinsics, and how larger ones are made from functions that write LLVM IR."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flashbench.codegen.ir import FLOATS, const, full_vector


def body_by_element(build: Callable[[ir.IRBuilder, ir.Type], ir.Function]) -> Callable[..., Any]:
    """An intrinsic without a result. It calls the function that `build` makes for an element type.

    build: called with the builder and the element type of the intrinsic's first argument.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(build(builder, element_of(signature.args[0])), spread(builder, args))
        return context.get_dummy_value()

    return codegen


def element_of(kind: Any) -> ir.Type:
    """What a pointer points to, or the pointer that a struct begins with."""
    first = kind.types[0] if isinstance(kind, types.BaseTuple) else kind
    return FLOATS[first.dtype]


def spread(builder: ir.IRBuilder, args: Iterable[ir.Value]) -> list[ir.Value]:
    """The values of arguments, a struct's one by one."""
    values: list[ir.Value] = []
    for value in args:
        is_struct = isinstance(value.type, (ir.LiteralStructType, ir.ArrayType))
        values += cgutils.unpack_tuple(builder, value) if is_struct else [value]
    return values


@intrinsic
def vector_lanes(typingctx: Any, like: Any) -> Any:
    """How many numbers of `like`'s type a vector holds, known to the compiler."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return const(full_vector(FLOATS[signature.args[0]]).count)

    return types.intp(like), codegen
