"""The micro-kernel: one strided matrix product computes all seven products of attention.

C[rows, columns] (+)= A[rows, depth] @ B[depth, columns]. A is read as scalars that are broadcast to a vector;
both its strides are free. B and C are read as rows of contiguous vectors. A tile of C stays in registers for
the whole depth.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import element_of, spread
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    if_fits,
    load,
    load_one,
    loop,
    signature_name,
    splat,
    store,
)
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.kernels.maths.rows import put_multiple, scale_rows
from flashbench.kernels.products import Matrix, Product, Sums
from flashbench.kernels.products.pack import pack


def _tile(
    b: ir.IRBuilder, vector: ir.VectorType, rows: int, vectors: int, args: tuple[ir.Value, ...], row: ir.Value
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
        b_vectors = [load(b, b_at, b.add(b_base, const(j * lanes)), vector) for j in range(vectors)]
        a_base = b.mul(step, a_col)
        for i in range(rows):
            broadcast = splat(b, load_one(b, a_rows[i], a_base), lanes)
            for j in range(vectors):
                following.append(fma(b, broadcast, b_vectors[j], totals[i * vectors + j]))

    # Pass 3: store the tile.
    for i in range(rows):
        for j in range(vectors):
            store(b, following[i * vectors + j], c_at, c_offsets[i][j])


def _panel(
    builder: ir.IRBuilder, operands: list[ir.Type], vector: ir.VectorType, vectors: int, rows_at_once: int
) -> ir.Function:
    """The product for one panel of C, `vectors` vectors wide and any number of rows high.

    operands: the element types of A and B.
    """

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        rows = args[7]
        with loop(b, rows, step=rows_at_once, carry=[]) as (row, _, _):
            _tile(b, vector, rows_at_once, vectors, args, row)
        done = b.mul(b.sdiv(rows, const(rows_at_once)), const(rows_at_once))
        # The remaining rows, in tiles of 8, 4, 2 and 1.
        for tail in (8, 4, 2, 1):
            if tail < rows_at_once:
                done = if_fits(b, done, tail, rows, partial(_tile, b, vector, tail, vectors, args, done))

    a, b_, c = (x.as_pointer() for x in (*operands, vector.element))
    signature = [a, INT, INT, b_, INT, c, INT, INT, INT, BOOL]
    name = f"fb.panel.{signature_name(vector, *operands)}x{vectors}"
    return function(builder, name, signature, body)


def _product(builder: ir.IRBuilder, operands: list[ir.Type], element: ir.Type) -> ir.Function:
    """The product for any number of columns: wide panels, then narrower, down to one element.

    operands: the element types of A and B; element: of C.
    """

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        a_at, a_row, a_col, b_at, b_row, c_at, c_row, rows, columns, depth, accumulate = args

        def panel_at(column: ir.Value, vector: ir.VectorType, vectors: int, rows_at_once: int) -> None:
            target = _panel(b, operands, vector, vectors, rows_at_once)
            b_panel, c_panel = b.gep(b_at, [column]), b.gep(c_at, [column])
            b.call(target, [a_at, a_row, a_col, b_panel, b_row, c_panel, c_row, rows, depth, accumulate])

        full = full_vector(element)
        widest = ISA.max_vectors
        step = widest * full.count
        with loop(b, columns, step=step, carry=[]) as (column, _, _):
            panel_at(column, full, widest, ISA.tile_rows[widest])
        done = b.mul(b.sdiv(columns, const(step)), const(step))
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
    name = f"fb.product.{signature_name(full_vector(element), *operands)}"
    return function(builder, name, signature, body)


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
    """C[rows, columns] = A[rows, depth] @ B[depth, columns]; += if `accumulate`. Strides in elements.

    a: a pointer, with any strides; b, c: a `Matrix` each, whose rows are contiguous. a and b may be 16-bit
    floats, c may not: sums grow in it.
    """
    n = types.intp
    signature = types.void(a, n, n, b, c, n, n, n, types.boolean)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        *rest, accumulate = spread(builder, args)
        flag = builder.icmp_unsigned("!=", accumulate, ir.Constant(accumulate.type, 0))
        operands = [element_of(signature.args[place]) for place in (0, 3)]
        product = _product(builder, operands, element_of(signature.args[4]))
        builder.call(product, [*rest, flag])
        return context.get_dummy_value()

    return signature, codegen


# Each step calls `multiply` directly. So LLVM compiles it for each step, and knows which strides are 1 there.


@step
def no_state():
    pass


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack(x.at, x.row, rows, columns, packed, lanes, factor)


@step
def _as_it_is(x, rows, columns, room):
    """Rows of float32 and float64 are read where they lie."""
    return x


@step
def _weights(p, lanes, rows):
    return p


@step
def _key_weights(p, lanes, rows, room):
    return p


@step
def _scores(s, keys, packed, lanes, rows, depth):
    multiply(keys.at, keys.row, 1, Matrix(packed, lanes), Matrix(s, lanes), rows, lanes, depth, False)


@step
def _finish_scores(s, count, factor, needs_units):
    return None


@step
def _add_to_queries(p, lanes, x, sums, queries, columns, keys, add):
    multiply(p, 1, lanes, x, Matrix(sums.at, sums.query), queries, columns, keys, add)


@step
def _add_to_keys(p, lanes, x, sums, keys, columns, queries, add):
    multiply(p, lanes, 1, x, sums, keys, columns, queries, add)


@step
def row_sums(room, lanes, columns):
    return Sums(room, columns, 1)


@step
def scale_row_sums(sums, queries, columns, factors):
    scale_rows(sums.at, sums.query, queries, columns, factors)


@step
def put_row_sums(target, sums, queries, columns, factors):
    for r in range(queries):
        put_multiple(at(target.at, r * target.row), at(sums.at, r * sums.query), columns, at(factors, r)[0])


FMA = Product(
    name="fma",
    exact=False,
    begin=no_state,
    end=no_state,
    pack=_pack,
    keys=_as_it_is,
    values=_as_it_is,
    turned=_as_it_is,
    weights=_weights,
    queries=_as_it_is,
    key_weights=_key_weights,
    scores=_scores,
    finish_scores=_finish_scores,
    add_to_queries=_add_to_queries,
    add_to_keys=_add_to_keys,
    sums=row_sums,
    scale=scale_row_sums,
    put=put_row_sums,
)
