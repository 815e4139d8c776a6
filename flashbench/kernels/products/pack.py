"""Pack a tile of rows: transpose it, so that a vector holds one column of several queries, one per lane."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import body_by_elements
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    full_vector,
    function,
    load,
    load_one,
    loop,
    round_down,
    signature_name,
    splat,
    store,
)


def transpose(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square of vectors in registers: swap off-diagonal blocks of 1, 2, 4 ... lanes."""
    count = len(rows)
    half = 1
    while half < count:
        indices = ir.VectorType(ir.IntType(32), count)
        low = ir.Constant(indices, [i if not i & half else count + i - half for i in range(count)])
        high = ir.Constant(indices, [i + half if not i & half else count + i for i in range(count)])
        swapped = list(rows)
        for i in range(count):
            if not i & half:
                swapped[i] = b.shuffle_vector(rows[i], rows[i | half], low)
                swapped[i | half] = b.shuffle_vector(rows[i], rows[i | half], high)
        rows = swapped
        half *= 2
    return rows


def _pack(builder: ir.IRBuilder, stored: ir.Type, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    lanes = vector.count

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        source, source_row, rows, columns, packed, packed_row, factor = args
        zero = constant(vector, 0.0)
        factors = splat(b, factor, lanes)

        # Pass 1: zeros in the vectors of lanes that have lanes without a row.
        whole = round_down(b, rows, lanes)
        with (
            loop(b, packed_row, start=whole, step=lanes, carry=[]) as (lane, _, _),
            loop(b, columns, carry=[]) as (column, _, _),
        ):
            store(b, zero, packed, b.add(b.mul(column, packed_row), lane))

        # Pass 2: whole squares, transposed in registers.
        with (
            loop(b, rows, step=lanes, carry=[]) as (row, _, _),
            loop(b, columns, step=lanes, carry=[]) as (column, _, _),
        ):
            square = [
                load(b, source, b.add(b.mul(b.add(row, const(i)), source_row), column), vector)
                for i in range(lanes)
            ]
            for i, value in enumerate(transpose(b, square)):
                offset = b.add(b.mul(b.add(column, const(i)), packed_row), row)
                store(b, b.fmul(value, factors), packed, offset)

        # Pass 3: the remaining elements, one by one.
        columns_done = round_down(b, columns, lanes)
        with loop(b, rows, carry=[]) as (row, _, _):
            first = b.select(b.icmp_signed("<", row, whole), columns_done, const(0))
            with loop(b, columns, start=first, carry=[]) as (column, _, _):
                value = load_one(b, source, b.add(b.mul(row, source_row), column))
                target = b.gep(packed, [b.add(b.mul(column, packed_row), row)])
                b.store(b.fmul(value, factor), target)

    signature = [stored.as_pointer(), INT, INT, INT, element.as_pointer(), INT, element]
    return function(builder, f"fb.pack.{signature_name(vector, stored)}", signature, body)


@intrinsic
def pack(
    typingctx: Any,
    source: Any,
    source_row: Any,
    rows: Any,
    columns: Any,
    packed: Any,
    packed_row: Any,
    factor: Any,
) -> Any:
    """packed[column, row] = factor * source[row, column]. Row strides in elements.

    If packed_row has room, lanes from `rows` on become zero.
    """
    n = types.intp
    signature = types.void(source, n, n, n, packed, n, packed.dtype)
    return signature, body_by_elements(_pack, 0, 4)
