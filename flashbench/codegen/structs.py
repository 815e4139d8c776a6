"""Structs with names that cross from Python to machine code as one table of 8-byte cells.

A struct is a NamedTuple whose annotations are the kinds of its cells:

    int               a whole number
    float             a number: a double in the table, of the call's accumulator type where it is read
    Storage, Number   an address, read as a pointer to elements of the call's storage or accumulator type
    Word              an address, read as a pointer to whole numbers
    a struct          its cells, one after the other; structs nest once

`pack_struct` writes one in Python. `view(Struct, storage, number, address)` reads it in machine code by name:
`call.sizes.head_dim` is one load. A view is two registers wide however many cells it has, so that steps of a
kernel hand on whole structs, and Numba compiles a kernel once per pair of types. The cells must not change
during a call: LLVM is free to read them once.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import Annotated, Any, NamedTuple, get_type_hints

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, register_model

from flashbench.codegen.ir import INT, const

CELL_BYTES = 8


Storage = Annotated[int, "pointer to storage"]
Number = Annotated[int, "pointer to accumulators"]
Word = Annotated[int, "pointer to whole numbers"]


class _Cell(NamedTuple):
    kind: Any
    place: int  # in cells


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple)


@functools.cache
def _cells(cls: type) -> dict[str, _Cell]:
    cells: dict[str, _Cell] = {}
    place = 0
    for name, kind in get_type_hints(cls, include_extras=True).items():
        cells[name] = _Cell(kind, place)
        place += len(_cells(kind)) if _is_struct(kind) else 1
    return cells


@functools.cache
def _packer(cls: Any) -> Any:
    """pack(*cells) of a struct of structs."""
    kinds = [cell.kind for name, cell in _cells(cls).items()]
    flat = (
        [inner.kind for kind in kinds for inner in _cells(kind).values()] if _is_struct(kinds[0]) else kinds
    )
    return struct.Struct("".join("d" if kind is float else "q" for kind in flat)).pack


def struct_bytes(cls: type) -> int:
    """The size of its table."""
    cells = _cells(cls).values()
    return sum(struct_bytes(cell.kind) if _is_struct(cell.kind) else CELL_BYTES for cell in cells)


def pack_struct(value: Any) -> bytes:
    """The table of a struct of structs."""
    cls: Any = type(value)
    packed: bytes = _packer(cls)(*itertools.chain.from_iterable(value))
    return packed


class View(types.Type):
    """A struct in memory, of a call with these storage and accumulator types."""

    def __init__(self, cls: type, storage: Any, number: Any) -> None:
        self.cls, self.storage, self.number = cls, storage, number
        super().__init__(name=f"View({cls.__module__}.{cls.__qualname__}, {storage}, {number})")

    @property
    def key(self) -> Any:
        """What views are equal by: two structs may have one name."""
        return self.cls, self.storage, self.number

    def cell_type(self, kind: Any) -> Any:
        """What reading a cell of this kind gives."""
        if _is_struct(kind):
            return View(kind, self.storage, self.number)
        pointers = {Storage: self.storage, Number: self.number, Word: types.intp}
        if kind in pointers:
            return types.CPointer(pointers[kind])
        return self.number if kind is float else types.intp


@register_model(View)
class _ViewModel(models.StructModel):
    """Where the cells are, and what addresses in them are relative to."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, [("cells", types.intp), ("base", types.intp)])


@infer_getattr
class _ViewAttributes(AttributeTemplate):
    key = View

    def generic_resolve(self, view: Any, name: str) -> Any:
        if name == "zero":
            return view.number
        cell = _cells(view.cls).get(name)
        return None if cell is None else view.cell_type(cell.kind)


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()), align=CELL_BYTES)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


@lower_getattr_generic(View)
def _read(context: Any, builder: ir.IRBuilder, view: Any, value: Any, name: str) -> Any:
    if name == "zero":
        return context.get_constant(view.number, 0)
    place = cgutils.create_struct_proxy(view)(context, builder, value)
    kind, cell = _cells(view.cls)[name]
    address = builder.add(place.cells, const(CELL_BYTES * cell))
    if _is_struct(kind):
        return _make(context, builder, view.cell_type(kind), address, place.base)
    if kind is float:
        return context.cast(builder, _load(builder, address, ir.DoubleType()), types.float64, view.number)
    found = _load(builder, address, INT)
    if kind is int:
        return found
    return builder.inttoptr(builder.add(found, place.base), context.get_value_type(view.cell_type(kind)))


def _make(context: Any, builder: ir.IRBuilder, view: Any, cells: ir.Value, base: ir.Value) -> ir.Value:
    made = cgutils.create_struct_proxy(view)(context, builder)
    made.cells, made.base = cells, base
    return made._getvalue()


@intrinsic
def view(typingctx: Any, struct: Any, storage: Any, number: Any, address: Any) -> Any:
    """The struct at an address; storage and number: any values of these types."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _make(context, builder, signature.return_type, args[3], const(0))

    return View(struct.instance_class, storage, number)(struct, storage, number, types.intp), codegen


@intrinsic
def element(typingctx: Any, struct: Any, like: Any, address: Any) -> Any:
    """The struct at an address, of the same call as another view."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _make(context, builder, signature.return_type, args[2], const(0))

    return View(struct.instance_class, like.storage, like.number)(struct, like, types.intp), codegen


@intrinsic
def based(typingctx: Any, layout: Any, base: Any) -> Any:
    """The view with its addresses relative to `base`: a thread's own scratch from the layout of all."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        place = cgutils.create_struct_proxy(layout)(context, builder, args[0])
        return _make(context, builder, layout, place.cells, args[1])

    return layout(layout, types.intp), codegen
