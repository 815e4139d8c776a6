"""Vector tanh, for softcap: a polynomial if all lanes are small, else exponentials for the large ones."""

from __future__ import annotations

import math

from llvmlite import ir

from flashbench.codegen.ir import call, constant, fma, integer_like, overload, size_of
from flashbench.codegen.isa import AVX512, ISA
from flashbench.kernels.maths.exp2 import exp2

# tanh(x) = x + x^3 g(x^2), lowest power first; g from Chebyshev nodes (mpmath.chebyfit at 40 digits). Largest
# relative error up to the limit: 1.2e-9 (unit roundoff 6.0e-8) and 1.5e-17 (1.1e-16). With a cap of 50, as in
# Gemma 2, scores up to 25 (float32) and 12.5 (float64) are within the limits: nearly all scores are.
_FLOAT32_LIMIT = 0.5
_FLOAT32 = (
    -0.33333332796631665,
    0.13333225775482527,
    -0.05393346914596769,
    0.02147068302533676,
    -0.006942941750416007,
)
_FLOAT64_LIMIT = 0.25
_FLOAT64 = (
    -0.3333333333333331,
    0.1333333333329479,
    -0.053968253869450214,
    0.02186947902594781,
    -0.008862798753789404,
    0.003581791786990957,
    -0.0013334287579797762,
)


def tanh(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """tanh(x) to a few units in the last place. NaN stays NaN. The builder ends in another basic block."""
    vector = x.type
    single = size_of(vector.element) == 4
    limit, coefficients = (_FLOAT32_LIMIT, _FLOAT32) if single else (_FLOAT64_LIMIT, _FLOAT64)

    size = call(b, f"llvm.fabs.{overload(vector)}", vector, x)
    small = b.fcmp_ordered("<", size, constant(vector, limit))
    square = b.fmul(x, x)
    series: ir.Value = constant(vector, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        series = fma(b, series, square, constant(vector, coefficient))
    near = fma(b, b.fmul(x, square), series, x)

    bits = b.bitcast(small, ir.IntType(vector.count))
    here = b.block
    with b.if_then(b.icmp_unsigned("!=", bits, ir.Constant(bits.type, -1)), likely=False):
        # tanh(|x|) = (1 - e) / (1 + e) with e = exp(-2 |x|).
        e = exp2(b, b.fmul(size, constant(vector, -2.0 * math.log2(math.e))))
        one = constant(vector, 1.0)
        far = _quotient(b, b.fsub(one, e), b.fadd(one, e))
        mixed = b.select(small, near, _with_sign_of(b, far, x))
        there = b.block
    result = b.phi(vector)
    result.add_incoming(near, here)
    result.add_incoming(mixed, there)
    return result


def _quotient(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """x / y for 1 <= y <= 2.

    On AVX-512, Newton steps from the 14-bit estimate of 1 / y: the division of a full vector takes a port as
    long as about 30 multiply-adds.
    """
    vector = x.type
    single = size_of(vector.element) == 4
    if ISA is not AVX512 or vector.count * size_of(vector.element) != 64:
        return b.fdiv(x, y)
    one, negative = constant(vector, 1.0), b.fneg(y)
    name = f"llvm.x86.avx512.rcp14.{'ps' if single else 'pd'}.512"
    every_lane = ir.Constant(ir.IntType(vector.count), -1)
    inverse = call(b, name, vector, y, constant(vector, 0.0), every_lane)
    for _ in range(1 if single else 2):
        inverse = fma(b, inverse, fma(b, negative, inverse, one), inverse)
    quotient = b.fmul(x, inverse)
    return fma(b, fma(b, negative, quotient, x), inverse, quotient)


def _with_sign_of(b: ir.IRBuilder, size: ir.Value, x: ir.Value) -> ir.Value:
    ints = integer_like(x.type)
    sign = ir.Constant(ints, [1 << (ints.element.width - 1)] * ints.count)
    return b.bitcast(b.or_(b.bitcast(size, ints), b.and_(b.bitcast(x, ints), sign)), x.type)
