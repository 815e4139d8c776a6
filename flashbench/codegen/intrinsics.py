"""Small intrinsics, and how larger ones are made from functions that write LLVM IR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.ir import FLOATS, const, full_vector


def body_by_element(build: Callable[[ir.IRBuilder, ir.Type], ir.Function]) -> Callable[..., Any]:
    """An intrinsic without a result. It calls the function that `build` makes for an element type.

    build: called with the builder and the element type of the intrinsic's first argument.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(build(builder, FLOATS[signature.args[0].dtype]), args)
        return context.get_dummy_value()

    return codegen


@intrinsic
def vector_lanes(typingctx: Any, like: Any) -> Any:
    """How many numbers of `like`'s type a vector holds, known to the compiler."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return const(full_vector(FLOATS[signature.args[0]]).count)

    return types.intp(like), codegen
