"""Small passes over rows: scale, copy, fill, check for NaN and inf, dot product of each row."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import accumulator_type
from flashbench.codegen.intrinsics import body_by_element, body_by_elements, element_of
from flashbench.codegen.ir import (
    BOOL,
    INT,
    constant,
    fma,
    full_vector,
    function,
    load,
    load_one,
    loop,
    overload,
    round_down,
    signature_name,
    splat,
    store,
    store_one,
    sum_of_lanes,
)


def _scale(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        matrix, matrix_row, rows, columns, factors = args
        whole = round_down(b, columns, vector.count)
        with loop(b, rows, carry=[]) as (row, _, _):
            factor = b.load(b.gep(factors, [row]))
            base = b.mul(row, matrix_row)
            broadcast = splat(b, factor, vector.count)
            with loop(b, columns, step=vector.count, carry=[]) as (column, _, _):
                at = b.add(base, column)
                store(b, b.fmul(load(b, matrix, at, vector), broadcast), matrix, at)
            with loop(b, columns, start=whole, carry=[]) as (column, _, _):
                cell = b.gep(matrix, [b.add(base, column)])
                b.store(b.fmul(b.load(cell), factor), cell)

    signature = [pointer, INT, INT, INT, pointer]
    return function(builder, f"fb.scale.{overload(vector)}", signature, body)


@intrinsic
def scale_rows(typingctx: Any, matrix: Any, matrix_row: Any, rows: Any, columns: Any, factors: Any) -> Any:
    """matrix[row, :] *= factors[row]."""
    n = types.intp
    return types.void(matrix, n, n, n, matrix), body_by_element(_scale)


def _finite(builder: ir.IRBuilder, stored: ir.Type) -> ir.Function:
    element = accumulator_type(stored)
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        matrix, matrix_row, rows, columns = args
        zero = constant(vector, 0.0)
        whole = round_down(b, columns, vector.count)
        scalar_zero = ir.Constant(element, 0.0)
        # 0 * x is NaN if x is infinite or NaN, and a sum with a NaN stays NaN.
        with loop(b, rows, carry=[zero, scalar_zero]) as (row, totals, following):
            base = b.mul(row, matrix_row)
            with loop(b, columns, step=vector.count, carry=[totals[0]]) as (column, inner, wide):
                wide.append(fma(b, load(b, matrix, b.add(base, column), vector), zero, inner[0]))
            with loop(b, columns, start=whole, carry=[totals[1]]) as (column, inner, narrow):
                x = load_one(b, matrix, b.add(base, column))
                narrow.append(b.fadd(b.fmul(x, scalar_zero), inner[0]))
            following += [wide[0], narrow[0]]
        bad = b.bitcast(b.fcmp_unordered("uno", following[0], following[0]), ir.IntType(vector.count))
        bad_tail = b.fcmp_unordered("uno", following[1], following[1])
        fine = b.icmp_unsigned("==", bad, ir.Constant(bad.type, 0))
        b.ret(b.and_(fine, b.not_(bad_tail)))

    name = f"fb.finite.{signature_name(vector, stored)}"
    return function(builder, name, [stored.as_pointer(), INT, INT, INT], body, result=BOOL)


@intrinsic
def all_finite(typingctx: Any, matrix: Any, matrix_row: Any, rows: Any, columns: Any) -> Any:
    """Whether no element is NaN or infinite."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        fine = builder.call(_finite(builder, element_of(signature.args[0])), args)
        return context.cast(builder, fine, types.boolean, types.boolean)

    return types.boolean(matrix, n, n, n), codegen


def _row_dots(builder: ir.IRBuilder, stored: ir.Type, element: ir.Type) -> ir.Function:
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        x, x_row, y, y_row, rows, columns, factor, result = args
        whole = round_down(b, columns, vector.count)
        with loop(b, rows, carry=[]) as (row, _, _):
            x_base, y_base = b.mul(row, x_row), b.mul(row, y_row)
            with loop(b, columns, step=vector.count, carry=[constant(vector, 0.0)]) as (column, before, wide):
                x_vector = load(b, x, b.add(x_base, column), vector)
                y_vector = load(b, y, b.add(y_base, column), vector)
                wide.append(fma(b, x_vector, y_vector, before[0]))
            total = sum_of_lanes(b, wide[0])
            with loop(b, columns, start=whole, carry=[total]) as (column, before, narrow):
                product = b.fmul(load_one(b, x, b.add(x_base, column)), load_one(b, y, b.add(y_base, column)))
                narrow.append(b.fadd(before[0], product))
            b.store(b.fmul(narrow[0], factor), b.gep(result, [row]))

    rows_of_both = [stored.as_pointer(), INT] * 2
    signature = [*rows_of_both, INT, INT, element, element.as_pointer()]
    return function(builder, f"fb.row_dots.{signature_name(vector, stored)}", signature, body)


@intrinsic
def row_dots(
    typingctx: Any, x: Any, x_row: Any, y: Any, y_row: Any, rows: Any, columns: Any, factor: Any, result: Any
) -> Any:
    """result[row] = factor * sum over columns of x[row, column] * y[row, column]."""
    n = types.intp
    signature = types.void(x, n, x, n, n, n, result.dtype, result)
    return signature, body_by_elements(_row_dots, 0, 7)


def _put(builder: ir.IRBuilder, stored: ir.Type, source_stored: ir.Type) -> ir.Function:
    element = accumulator_type(stored)
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        target, source, count, factor = args
        factors = splat(b, factor, vector.count)
        with loop(b, count, step=vector.count, carry=[]) as (place, _, _):
            store(b, b.fmul(load(b, source, place, vector), factors), target, place)
        whole = round_down(b, count, vector.count)
        with loop(b, count, start=whole, carry=[]) as (place, _, _):
            store_one(b, b.fmul(load_one(b, source, place), factor), target, place)

    signature = [stored.as_pointer(), source_stored.as_pointer(), INT, element]
    return function(builder, f"fb.put.{signature_name(vector, stored, source_stored)}", signature, body)


@intrinsic
def put_multiple(typingctx: Any, target: Any, source: Any, count: Any, factor: Any) -> Any:
    """target[i] = factor * source[i] for `count` numbers. factor: of the accumulator type."""
    number = types.float64 if target.dtype == types.float64 else types.float32
    return types.void(target, source, types.intp, number), body_by_elements(_put, 0, 1)


def _fill(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        target, count, value = args
        values = splat(b, value, vector.count)
        with loop(b, count, step=vector.count, carry=[]) as (place, _, _):
            store(b, values, target, place)
        whole = round_down(b, count, vector.count)
        with loop(b, count, start=whole, carry=[]) as (place, _, _):
            b.store(value, b.gep(target, [place]))

    name = f"fb.fill.{overload(vector)}"
    return function(builder, name, [element.as_pointer(), INT, element], body)


@intrinsic
def fill(typingctx: Any, target: Any, count: Any, value: Any) -> Any:
    """target[i] = value for `count` numbers."""
    return types.void(target, types.intp, target.dtype), body_by_element(_fill)
