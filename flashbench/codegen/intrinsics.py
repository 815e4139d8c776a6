"""Helpers to make a Numba intrinsic from a function that writes LLVM IR, and a small intrinsic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from flashbench.codegen.elements import ELEMENTS


def body_by_element(build: Callable[[ir.IRBuilder, ir.Type], ir.Function]) -> Callable[..., Any]:
    """The codegen of an intrinsic without a result. It calls the LLVM function that `build` returns.

    build: called with the builder and the element type of the intrinsic's first argument.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.call(build(builder, element_of(signature.args[0])), spread(builder, args))
        return context.get_dummy_value()

    return codegen


def body_by_elements(build: Callable[..., ir.Function], *places: int) -> Callable[..., Any]:
    """The same for pointers to several types: build(builder, element types of the arguments `places`)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        elements = [element_of(signature.args[place]) for place in places]
        builder.call(build(builder, *elements), spread(builder, args))
        return context.get_dummy_value()

    return codegen


def calls(build: Callable[[ir.IRBuilder], ir.Function]) -> Callable[..., Any]:
    """The same for types that do not vary: build(builder)."""
    return body_by_elements(build)


def element_of(kind: Any) -> ir.Type:
    """The element type of a pointer, or of the pointer that is the first field of a struct."""
    first = kind.types[0] if isinstance(kind, types.BaseTuple) else kind
    return ELEMENTS[first.dtype]


def spread(builder: ir.IRBuilder, args: Iterable[ir.Value]) -> list[ir.Value]:
    """The arguments as a flat list: a struct becomes its fields."""
    values: list[ir.Value] = []
    for value in args:
        is_struct = isinstance(value.type, (ir.LiteralStructType, ir.ArrayType))
        values += cgutils.unpack_tuple(builder, value) if is_struct else [value]
    return values
