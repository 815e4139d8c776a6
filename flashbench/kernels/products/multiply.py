"""The micro-kernel: one strided matrix product computes all seven products of attention.

C[rows, columns] (+)= A[rows, depth] @ B[depth, columns]. A is read as scalars that are broadcast to a vector;
both its strides are free. B and C are read as rows of contiguous vectors. A tile of C stays in registers for
the whole depth.

The micro-kernel is the same for every instruction that multiplies vectors and adds to float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import element_of, spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    full_vector,
    function,
    if_fits,
    load,
    loop,
    round_down,
    signature_name,
    splat,
    store,
)
from flashbench.codegen.isa import ISA


class Instruction(NamedTuple):
    """What one step of the depth multiplies: an element of A by a vector of elements of B.

    An element may be several stored numbers, as a pair of bfloat16 is.
    """

    name: str
    numbers: int  # stored numbers in an element
    load_one: Callable[..., ir.Value]  # (builder, pointer, offset): an element of A; offset: stored numbers
    load: Callable[..., ir.Value]  # (builder, pointer, offset, vector of C): as many elements of B
    add: Callable[..., ir.Value]  # (builder, a, b, c): the vector a * b + c


def _tile(
    b: ir.IRBuilder,
    by: Instruction,
    vector: ir.VectorType,
    rows: int,
    vectors: int,
    args: tuple[ir.Value, ...],
    row: ir.Value,
) -> None:
    """Compute a tile of C: `rows` rows from `row` on, `vectors` vectors wide."""
    a_at, a_row, a_col, b_at, b_row, c_at, c_row, _, depth, accumulate = args
    lanes = vector.count
    c_offsets = [
        [b.add(b.mul(b.add(row, const(i)), c_row), const(j * lanes)) for j in range(vectors)]
        for i in range(rows)
    ]

    # Pass 1: start from C or from zero.
    zero = constant(vector, 0.0)
    here = b.block
    with b.if_then(accumulate):
        old = [load(b, c_at, c_offsets[i][j], vector) for i in range(rows) for j in range(vectors)]
        loaded_in = b.block
    start = []
    for value in old:
        phi = b.phi(vector)
        phi.add_incoming(zero, here)
        phi.add_incoming(value, loaded_in)
        start.append(phi)

    # Pass 2: one row of B and one column of A per iteration.
    a_rows = [b.gep(a_at, [b.mul(b.add(row, const(i)), a_row)]) for i in range(rows)]
    with loop(b, depth, carry=start) as (step, totals, following):
        b_base = b.mul(step, b_row)
        b_offsets = [b.add(b_base, const(j * lanes * by.numbers)) for j in range(vectors)]
        b_vectors = [by.load(b, b_at, offset, vector) for offset in b_offsets]
        a_base = b.mul(step, a_col)
        for i in range(rows):
            broadcast = splat(b, by.load_one(b, a_rows[i], a_base), lanes)
            for j in range(vectors):
                following.append(by.add(b, broadcast, b_vectors[j], totals[i * vectors + j]))

    # Pass 3: store the tile.
    for i in range(rows):
        for j in range(vectors):
            store(b, following[i * vectors + j], c_at, c_offsets[i][j])


def _panel(
    builder: ir.IRBuilder,
    by: Instruction,
    operands: list[ir.Type],
    vector: ir.VectorType,
    vectors: int,
    rows_at_once: int,
) -> ir.Function:
    """The product for one panel of C, `vectors` vectors wide and any number of rows high.

    operands: the element types of A and B.
    """

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        rows = args[7]
        with loop(b, rows, step=rows_at_once, carry=[]) as (row, _, _):
            _tile(b, by, vector, rows_at_once, vectors, args, row)
        done = round_down(b, rows, rows_at_once)
        # The remaining rows, in tiles of 8, 4, 2 and 1.
        for tail in (8, 4, 2, 1):
            if tail < rows_at_once:
                done = if_fits(b, done, tail, rows, partial(_tile, b, by, vector, tail, vectors, args, done))

    a, b_, c = (x.as_pointer() for x in (*operands, vector.element))
    signature = [a, INT, INT, b_, INT, c, INT, INT, INT, BOOL]
    name = f"fb.panel.{by.name}.{signature_name(vector, *operands)}x{vectors}"
    return function(builder, name, signature, body)


def _product(
    builder: ir.IRBuilder, by: Instruction, operands: list[ir.Type], element: ir.Type
) -> ir.Function:
    """The product for any number of columns: wide panels, then narrower, down to one element.

    operands: the element types of A and B; element: of C.
    """

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        a_at, a_row, a_col, b_at, b_row, c_at, c_row, rows, columns, depth, accumulate = args

        def panel_at(column: ir.Value, vector: ir.VectorType, vectors: int, rows_at_once: int) -> None:
            target = _panel(b, by, operands, vector, vectors, rows_at_once)
            b_panel = b.gep(b_at, [b.mul(column, const(by.numbers))])
            c_panel = b.gep(c_at, [column])
            b.call(target, [a_at, a_row, a_col, b_panel, b_row, c_panel, c_row, rows, depth, accumulate])

        full = full_vector(element)
        widest = ISA.max_vectors
        step = widest * full.count
        with loop(b, columns, step=step, carry=[]) as (column, _, _):
            panel_at(column, full, widest, ISA.tile_rows[widest])
        done = round_down(b, columns, step)
        # The remaining columns need at most one panel of each narrower width. A tail of less than a vector is
        # split into powers of two. So nothing is padded, and nothing is read out of bounds.
        narrower = [(full, vectors, ISA.tile_rows[vectors]) for vectors in range(widest - 1, 0, -1)]
        lanes = full.count // 2
        while lanes:
            narrower.append((ir.VectorType(element, lanes), 1, ISA.tile_rows[1]))
            lanes //= 2
        for vector, vectors, rows_at_once in narrower:
            panel = partial(panel_at, done, vector, vectors, rows_at_once)
            done = if_fits(b, done, vector.count * vectors, columns, panel)

    a_pointer, b_pointer, c_pointer = (x.as_pointer() for x in (*operands, element))
    signature = [a_pointer, INT, INT, b_pointer, INT, c_pointer, INT, INT, INT, INT, BOOL]
    name = f"fb.product.{by.name}.{signature_name(full_vector(element), *operands)}"
    return function(builder, name, signature, body)


def multiplication(by: Instruction) -> Any:
    """The micro-kernel by this instruction, for compiled code to call: see `multiply` in it."""

    @intrinsic
    def multiply(
        typingctx: Any,
        a: Any,
        a_row: Any,
        a_col: Any,
        b: Any,
        c: Any,
        rows: Any,
        columns: Any,
        depth: Any,
        accumulate: Any,
    ) -> Any:
        """C[rows, columns] = A[rows, depth] @ B[depth, columns]; += if `accumulate`.

        a: a pointer, with any strides; b, c: a `Matrix` each, whose rows are contiguous. Strides count stored
        numbers; columns and depth count elements. a and b may be 16-bit floats, c may not: sums grow in it.
        """
        n = types.intp
        signature = types.void(a, n, n, b, c, n, n, n, types.boolean)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            *rest, accumulate = spread(builder, args)
            flag = builder.icmp_unsigned("!=", accumulate, ir.Constant(accumulate.type, 0))
            operands = [element_of(signature.args[place]) for place in (0, 3)]
            product = _product(builder, by, operands, element_of(signature.args[4]))
            builder.call(product, [*rest, flag])
            return context.get_dummy_value()

        return signature, codegen

    return multiply
