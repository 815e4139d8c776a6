"""How the stages read rows of q, k, v and do, and write rows of o and the gradients.

float32 and float64 are read where they lie, and sums grow in the output (`IN_PLACE`). 16-bit floats are
widened to float32 in the thread's scratch, some rows at a time, because a product reads each row many times.
Their sums grow in scratch too, and are rounded once (`WIDENED`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flashbench.codegen.pointers import at
from flashbench.codegen.scratch import Part, ScratchLayout
from flashbench.codegen.steps import step
from flashbench.dtypes import Dtype, is_half
from flashbench.kernels.maths.rows import put_multiple
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.convert import CONVERT
from flashbench.kernels.products.fma import FMA


class Access(NamedTuple):
    """One way to read and write rows of the storage type, known when a kernel is compiled."""

    most_rows: int  # rows of a product's left side that are read at once
    # operand(x, rows, columns, room): the rows of x as a product reads them.
    operand: Any
    # packed(output, apart, room): where to pack a matrix: at the pointer `output`, or in `room`.
    packed: Any
    # sums(x, columns, room): the rows in which the sums of the output x grow.
    sums: Any
    # put(x, sums, rows, columns): write complete sums to x.
    put: Any


@step
def _in_output(output, apart, room):
    return room if apart else output


@step
def _output_itself(x, columns, room):
    return x


@step
def _already_there(x, sums, rows, columns):
    pass


IN_PLACE = Access(2**62, FMA.values, _in_output, _output_itself, _already_there)


@step
def _in_room(output, apart, room):
    return room


@step
def _rows_in_room(x, columns, room):
    return Matrix(room, columns)


@step
def _rounded(x, sums, rows, columns):
    for r in range(rows):
        put_multiple(at(x.at, r * x.row), at(sums.at, r * sums.row), columns, 1.0)


# Rows at once: a multiple of the rows of a product's tile.
WIDENED = Access(192, CONVERT.values, _in_room, _rows_in_room, _rounded)


def access_of(dtype: Dtype) -> Access:
    """The way of a dtype."""
    return WIDENED if is_half(dtype) else IN_PLACE


class RoomSizes(NamedTuple):
    """Elements of the parts of a thread's scratch."""

    packed: int
    operand: int
    sums: int
    number_bytes: int


def _of(name: str) -> Callable[[RoomSizes], int]:
    return lambda sizes: getattr(sizes, name)


# packed: k or v, transposed. operand: the rows of a product's left side, or a slice of its right side.
ROOMS = ScratchLayout("StandardRooms", *(Part(name, _of(name)) for name in ("packed", "operand", "sums")))
