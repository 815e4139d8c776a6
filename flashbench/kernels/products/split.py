"""Numbers as sums of bfloat16 numbers: a float16 number is h + l, a float32 number h + m + l, exactly.

A bfloat16 number has 8 significant bits; these have 11 and 24.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from flashbench.codegen.ir import constant

_BELOW = 1 - 2.0**-12  # less than 1 by less than a bit of float16


def _patterns(x: ir.Value) -> ir.VectorType:
    return ir.VectorType(ir.IntType(32), x.type.count)


def halves_of(b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """[h, l] of float16 numbers that were widened; of any float32 number, but then l is rounded when stored.

    Both have the sign of x, and neither is 0 unless x is: h is x rounded towards 0, or if x has no other bits,
    the number before it. So an infinite factor meets no 0 and no infinity of the other sign, and the sum of the
    products of parts is infinite or NaN where the product is. h and l of the smallest float16 number are normal
    in bfloat16. Of infinity, both are it.
    """
    kind = _patterns(x)
    lower = b.bitcast(b.fmul(x, constant(x.type, _BELOW)), kind)
    h = b.bitcast(b.and_(lower, ir.Constant(kind, [0xFFFF0000] * kind.count)), x.type)
    l_ = b.fsub(x, h)
    return [h, b.select(b.fcmp_ordered("==", l_, l_), l_, x)]


def thirds_of(b: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """[h, m, l] of float32 numbers up to 2**111: h is x rounded to 8 bits, m the rest rounded to 8 bits, and so on.

    Rounding by Dekker's splitting (1971): (2**16 + 1) x - ((2**16 + 1) x - x).
    """
    parts = []
    for _ in range(2):
        scaled = b.fmul(x, constant(x.type, 65537.0))
        parts.append(b.fsub(scaled, b.fsub(scaled, x)))
        x = b.fsub(x, parts[-1])
    return [*parts, x]


class Split(NamedTuple):
    """How a number becomes a sum."""

    name: str
    count: int
    of: Callable[[ir.IRBuilder, ir.Value], list[ir.Value]]  # parts: vectors of float32
    # Parts of which bfloat16 keeps every bit, whatever the number. Others are rounded when they are stored.
    exact: int


HALVES, THIRDS = Split("halves", 2, halves_of, 1), Split("thirds", 3, thirds_of, 3)
