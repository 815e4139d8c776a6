"""Structs with named fields: Python writes them as a table of 8-byte cells, and machine code reads it.

A struct is a NamedTuple. The annotation of a field is the kind of its cell:

    int               an integer
    float             a double in the table, converted to the call's accumulator type when read
    Storage, Number   an address, read as a pointer to the call's storage or accumulator type
    Word              an address, read as a pointer to integers
    a struct          the cells of that struct; structs nest one level

`pack_struct` writes a struct in Python. `view(Struct, storage, number, address)` reads it in machine code:
`call.sizes.head_dim` is one load. A view takes two registers, with any number of cells. So the steps of a
kernel pass whole structs, and Numba compiles a kernel once per pair of types. The cells must not change
during a call: LLVM may read them only once.
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

from flashbench.codegen.elements import ELEMENTS, lanes_at_once
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
    """pack(*cells) for a struct of structs."""
    kinds = [inner.kind for cell in _cells(cls).values() for inner in _cells(cell.kind).values()]
    return struct.Struct("".join("d" if kind is float else "q" for kind in kinds)).pack


def struct_bytes(cls: type) -> int:
    """Bytes of the struct's table."""
    cells = _cells(cls).values()
    return sum(struct_bytes(cell.kind) if _is_struct(cell.kind) else CELL_BYTES for cell in cells)


def pack_struct(value: Any) -> bytes:
    """The table of `value`, a struct of structs."""
    cls: Any = type(value)
    packed: bytes = _packer(cls)(*itertools.chain.from_iterable(value))
    return packed


class View(types.Type):
    """The Numba type of a struct in memory, for a call with these storage and accumulator types."""

    def __init__(self, cls: type, storage: Any, number: Any) -> None:
        self.cls, self.storage, self.number = cls, storage, number
        super().__init__(name=f"View({cls.__module__}.{cls.__qualname__}, {storage}, {number})")

    @property
    def key(self) -> Any:
        """Numba compares types by this. The name is not enough: two structs may have the same name."""
        return self.cls, self.storage, self.number

    def cell_type(self, kind: Any) -> Any:
        """The Numba type of a cell of this kind when it is read."""
        if _is_struct(kind):
            return View(kind, self.storage, self.number)
        pointers = {Storage: self.storage, Number: self.number, Word: types.intp}
        if kind in pointers:
            return types.CPointer(pointers[kind])
        return self.number if kind is float else types.intp


@register_model(View)
class _ViewModel(models.StructModel):
    """cells: address of the first cell. base: added to each address in a cell; 0 if these are absolute."""

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
    """The struct at an address. storage, number: the Numba types of storage and accumulator."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _make(context, builder, signature.return_type, args[3], const(0))

    kinds = storage.instance_type, number.instance_type
    return View(struct.instance_class, *kinds)(struct, storage, number, types.intp), codegen


@intrinsic
def element(typingctx: Any, struct: Any, like: Any, address: Any) -> Any:
    """The struct at an address, with the types of another view `like`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _make(context, builder, signature.return_type, args[2], const(0))

    return View(struct.instance_class, like.storage, like.number)(struct, like, types.intp), codegen


@intrinsic
def based(typingctx: Any, layout: Any, base: Any) -> Any:
    """The same view with its addresses relative to `base`: turns a scratch layout into a thread's scratch."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        place = cgutils.create_struct_proxy(layout)(context, builder, args[0])
        return _make(context, builder, layout, place.cells, args[1])

    return layout(layout, types.intp), codegen


@intrinsic
def lane_step(typingctx: Any, call: Any) -> Any:
    """Lanes of a tile of the call are a multiple of this, a compile-time constant; see `lanes_at_once`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return const(lanes_at_once(ELEMENTS[call.storage]))

    return types.intp(call), codegen
