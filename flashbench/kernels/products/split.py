"""Numbers as sums of bfloat16 numbers: a float16 number is h + l, a float32 number h + m + l, exactly.

A bfloat16 number has 8 significant bits; these have 11 and 24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import element_of
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    full_vector,
    function,
    load,
    loop,
    overload,
    round_down,
)

_BELOW = 1 - 2.0**-12  # less than 1 by less than a bit of float16


def _patterns(x: ir.Value) -> ir.VectorType:
    return ir.VectorType(ir.IntType(32), x.type.count)


def halves_of(b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """[h, l] of float16 numbers that were widened; of any float32 number, but then l is rounded when stored.

    Both have the sign of x, and neither is 0 unless x is: h is x rounded towards 0, or if x has no other
    bits, the number before it. So an infinite factor meets no 0 and no infinity of the other sign, and the
    sum of the products of parts is infinite or NaN where the product is. h and l of the smallest float16
    number are normal in bfloat16. Of infinity, both are it.
    """
    kind = _patterns(x)
    lower = b.bitcast(b.fmul(x, constant(x.type, _BELOW)), kind)
    h = b.bitcast(b.and_(lower, ir.Constant(kind, [0xFFFF0000] * kind.count)), x.type)
    l_ = b.fsub(x, h)
    return [h, b.select(b.fcmp_ordered("==", l_, l_), l_, x)]


def thirds_of(b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """[h, m, l] of float32 numbers up to 2**111: h is x rounded to 8 bits, m the rest rounded to 8 bits.

    Rounding by Dekker's splitting (1971): (2**16 + 1) x - ((2**16 + 1) x - x).
    """
    parts = []
    for _ in range(2):
        scaled = b.fmul(x, constant(x.type, 65537.0))
        parts.append(b.fsub(scaled, b.fsub(scaled, x)))
        x = b.fsub(x, parts[-1])
    return [*parts, x]


def cut_thirds_of(b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """The same by cutting bits off, in half as many instructions.

    m and l have the sign of x, and may be twice as large. So what products of parts leave out is small only
    if the other factor was rounded.
    """
    kind = _patterns(x)
    upper = ir.Constant(kind, [0xFFFF0000] * kind.count)
    parts = []
    for _ in range(2):
        parts.append(b.bitcast(b.and_(b.bitcast(x, kind), upper), x.type))
        x = b.fsub(x, parts[-1])
    return [*parts, x]


class Split(NamedTuple):
    """How a number becomes a sum."""

    name: str
    parts: int
    of: Callable[[ir.IRBuilder, ir.Value], list[ir.Value]]  # parts: vectors of float32
    # Parts of which bfloat16 keeps every bit, whatever the number. Others are rounded when they are stored.
    exact: int


# The sizes of float32 numbers whose parts, and products of parts, are no denormals and no infinities.
SMALLEST, LARGEST = 2.0**-100, 2.0**60


def _exactly(builder: ir.IRBuilder) -> ir.Function:
    vector, single = full_vector(ir.FloatType()), ir.VectorType(ir.FloatType(), 1)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        matrix, matrix_row, rows, columns = args
        done = round_down(b, columns, vector.count)
        extremes = [_none_yet(vector), _none_yet(single)]
        with loop(b, rows, carry=[*extremes[0], *extremes[1]]) as (row, outer, following):
            base = b.mul(row, matrix_row)
            for kind, start, stop, place in ((vector, const(0), done, 0), (single, done, columns, 2)):
                carried = outer[place : place + 2]
                with loop(b, stop, start=start, step=kind.count, carry=carried) as (column, inner, found):
                    found += _extremes(b, load(b, matrix, b.add(base, column), kind), *inner)
                following += found
        fine = [_within(b, *following[place : place + 2]) for place in (0, 2)]
        b.ret(b.and_(*fine))

    name = f"fb.splits_exactly.{overload(vector)}"
    return function(builder, name, [ir.FloatType().as_pointer(), INT, INT, INT], body, result=BOOL)


def _none_yet(kind: ir.VectorType) -> list[ir.Value]:
    words = ir.VectorType(ir.IntType(32), kind.count)
    return [ir.Constant(words, [0xFFFFFFFF] * kind.count), ir.Constant(words, [0] * kind.count)]


def _extremes(b: ir.IRBuilder, x: ir.Value, least: ir.Value, most: ir.Value) -> list[ir.Value]:
    """The least size but 0, less 1, and the largest, as patterns: they are ordered as the sizes are."""
    kind = _patterns(x)
    size = b.and_(b.bitcast(x, kind), ir.Constant(kind, [0x7FFFFFFF] * kind.count))
    before = b.sub(size, ir.Constant(kind, [1] * kind.count))  # of 0 it is the largest pattern
    return [
        b.select(b.icmp_unsigned("<", before, least), before, least),
        b.select(b.icmp_unsigned(">", size, most), size, most),
    ]


def _within(b: ir.IRBuilder, least: ir.Value, most: ir.Value) -> ir.Value:
    first, last = (int(np.float32(x).view(np.uint32)) for x in (SMALLEST, LARGEST))
    kind = least.type
    bits = ir.IntType(kind.count)
    small = b.icmp_unsigned("<", least, ir.Constant(kind, [first - 1] * kind.count))
    large = b.icmp_unsigned(">", most, ir.Constant(kind, [last] * kind.count))
    return b.icmp_unsigned("==", b.bitcast(b.or_(small, large), bits), ir.Constant(bits, 0))


@intrinsic
def splits_exactly(typingctx: Any, matrix: Any, matrix_row: Any, rows: Any, columns: Any) -> Any:
    """Whether every number of float32 rows is 0 or as `thirds_of` needs it. True for other element types."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if not isinstance(element_of(signature.args[0]), ir.FloatType):
            return context.get_constant(types.boolean, True)
        fine = builder.call(_exactly(builder), args)
        return context.cast(builder, fine, types.boolean, types.boolean)

    return types.boolean(matrix, n, n, n), codegen


HALVES, THIRDS = Split("halves", 2, halves_of, 1), Split("thirds", 3, thirds_of, 3)
CUT_THIRDS = Split("cut_thirds", 3, cut_thirds_of, 3)
# A product of so many parts refuses numbers that do not split; the call then runs by another path.
MAY_REFUSE = THIRDS.parts
