"""Vector 2**x: the one exponential of all kernels.

x = n + f, with n an integer and |f| <= 1/2. 2**f is a near-minimax polynomial; 2**n is written to the
exponent bits. 2**-inf is exactly 0, and NaN stays NaN. Results below 2**-100 in float32 and 2**-1000 in
float64 are 0. They add nothing to a sum that has a term of 2**-8 or more. Products with them would be
denormal, which costs a CPU about a hundred cycles each. The row maximum is subtracted from scores first, so
x <= 0 and nothing overflows.
"""

from __future__ import annotations

import math

from llvmlite import ir

from flashbench.codegen.ir import call, constant, fma, integer_like, size_of
from flashbench.codegen.isa import AVX512, ISA

# Inside the kernels logarithms are to base 2, outside they are natural.
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)

# 2**f = 1 + f * q(f), lowest power first; q from Chebyshev nodes (mpmath.chebyfit at 40 digits).
# Largest relative error on [-1/2, 1/2]: 5.1e-9 (unit roundoff 6.0e-8) and 2.0e-17 (1.1e-16).
_FLOAT32 = (
    1.0,
    0.6931471880262288,
    0.24022650760568126,
    0.05550357114219078,
    0.009618082557277852,
    0.0013390863364671234,
    0.0001545316294512069,
)
# The same for results that are rounded: minimax of degree 4, largest relative error 2.6e-6.
_ROUNDED = (
    0.9999992614421586,
    0.6931218147436774,
    0.2402474483966372,
    0.05591786028191069,
    0.009570101433330144,
)
_FLOAT64 = (
    1.0,
    0.6931471805599453,
    0.24022650695910097,
    0.0555041086648216,
    0.009618129107606888,
    0.0013333558146416936,
    0.0001540353044173605,
    1.525273382983612e-05,
    1.321544258792169e-06,
    1.0178062445845774e-07,
    7.072585949269223e-09,
    4.4549605981865186e-10,
)

# The same on [0, 1], exact at both ends: a row with one large score has p = 1. Largest relative error 3.3e-6,
# mean error 3.0e-8: sums of p are better. Degree 3, with errors of 1.0e-4, would do for bfloat16's p, but not
# for lse.
_ROUNDED_UPWARDS = (
    1.0,
    0.6930321208171397,
    0.24137976297029948,
    0.052032368938609415,
    0.013555747273951424,
)

# The same of degree 6 for all bits of float32: largest relative error 2.2e-9.
_UPWARDS = (
    1.0,
    0.693147032400547,
    0.24022951328742764,
    0.05548415247053418,
    0.009678063887289572,
    0.0012440876964383998,
    0.00021715025776318327,
)

# A running maximum grows only if an exponent exceeds it by more than this. Then 2**x is at most 2**8 and no
# less exact, and small growth rescales no older sums (the conditional rescaling of FlashAttention-4).
MOST_ABOVE = 8.0

_LOWEST = {4: -100.0, 8: -1000.0}  # by size of the element

# The same polynomial on [-1/16, 1/16], without the leading 1 (largest relative error 6.0e-18).
_FLOAT64_EIGHTHS = (
    0.6931471805599453,
    0.24022650695910933,
    0.05550410866482224,
    0.009618129089983302,
    0.0013333558132838856,
    0.00015404433819347582,
    1.525342958649691e-05,
)
_POWERS_OF_EIGHTHS = [2.0 ** (i / 8) for i in range(8)]


def exp2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2**x for a vector x <= MOST_ABOVE, -inf and NaN included."""
    return _exp2(builder, x, _FLOAT32 if size_of(x.type.element) == 4 else _FLOAT64)


def exp2_rounded(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """`exp2_flushed` for results that are rounded to 16 bits or fewer."""
    if _fills_avx512(x):
        return _exp2_upwards(builder, x, _ROUNDED_UPWARDS)
    return _exp2(builder, x, _ROUNDED)


def exp2_flushed(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The same of float32 in fewer instructions, for threads that flush denormals to zero.

    In others, a denormal result costs AVX-512 a hundred cycles.
    """
    return _exp2_upwards(builder, x, _UPWARDS) if _fills_avx512(x) else exp2(builder, x)


def _fills_avx512(x: ir.Value) -> bool:
    return ISA is AVX512 and x.type.count * size_of(x.type.element) == 64


def _exp2(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    single = size_of(x.type.element) == 4
    mantissa = 23 if single else 52
    if _fills_avx512(x):
        return _exp2_avx512(builder, x, coefficients)

    # Adding 1.5 * 2**mantissa rounds x to an integer n, and n is in the low bits of the sum.
    magic = 1.5 * 2.0**mantissa
    # The low bits of x + magic + bias hold n + bias. Shifted to the exponent bits they are the float 2**n.
    # Multiply by it instead of adding exponents, so that NaN with any payload stays NaN.
    bias = constant(x.type, magic + (127 if single else 1023))
    shifted = builder.fadd(x, bias)
    fraction = builder.fsub(x, builder.fsub(shifted, bias))
    ints = integer_like(x.type)
    power = builder.shl(builder.bitcast(shifted, ints), ir.Constant(ints, [mantissa] * ints.count))
    result = builder.fmul(_polynomial(builder, fraction, coefficients), builder.bitcast(power, x.type))
    # Below the normal range, and for -inf, `result` is invalid.
    return builder.select(_counts(builder, x), result, constant(x.type, 0.0))


def _counts(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Whether 2**x is not rounded to 0. True for NaN."""
    lowest = _LOWEST[size_of(x.type.element)]
    return builder.fcmp_unordered(">=", x, constant(x.type, lowest))


def _polynomial(builder: ir.IRBuilder, fraction: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    total: ir.Value = constant(fraction.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = fma(builder, total, fraction, constant(fraction.type, coefficient))
    return total


def _exp2_avx512(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    """2**x with VSCALEF for 2**n.

    In float64 n is a multiple of 1/8, and a table in one register gives 2**(n mod 1). This saves three
    multiply-adds. In float32 a table of sixteenths gained nothing when measured.
    """
    vector = x.type
    single = size_of(vector.element) == 4
    magic = constant(vector, 1.5 * 2.0**23 if single else 1.5 * 2.0**52 / 8)
    shifted = builder.fadd(x, magic)
    n = builder.fsub(shifted, magic)
    fraction = builder.fsub(x, n)
    if single:
        return _scale_by_power(builder, _polynomial(builder, fraction, coefficients), n, _counts(builder, x))
    table = ir.Constant(vector, _POWERS_OF_EIGHTHS)
    index = builder.bitcast(shifted, integer_like(vector))  # its low bits count the eighths
    power = call(builder, "llvm.x86.avx512.permvar.df.512", vector, table, index)
    rest = builder.fmul(fraction, _polynomial(builder, fraction, _FLOAT64_EIGHTHS))
    return _scale_by_power(builder, fma(builder, power, rest, power), n, _counts(builder, x))


def _exp2_upwards(builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
    """2**x = 2**(x - floor(x)) * 2**floor(x): VREDUCE computes x - floor(x), and VSCALEF ignores it in x."""
    vector, every = x.type, ir.Constant(ir.IntType(x.type.count), -1)
    to_integer_downwards, current_rounding = (ir.Constant(ir.IntType(32), value) for value in (9, 4))
    zero = constant(vector, 0.0)
    name = "llvm.x86.avx512.mask.reduce.ps.512"
    fraction = call(builder, name, vector, x, to_integer_downwards, zero, every, current_rounding)
    value = _polynomial(builder, fraction, coefficients)
    name = "llvm.x86.avx512.mask.scalef.ps.512"
    return call(builder, name, vector, value, x, zero, every, current_rounding)


def _scale_by_power(builder: ir.IRBuilder, value: ir.Value, n: ir.Value, counts: ir.Value) -> ir.Value:
    """value * 2**floor(n) by AVX-512's VSCALEF; 0 in lanes where `counts` is false."""
    single = size_of(value.type.element) == 4
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if single else 'pd'}.512"
    mask = builder.bitcast(counts, ir.IntType(value.type.count))
    current_rounding = ir.Constant(ir.IntType(32), 4)
    return call(builder, name, value.type, value, n, constant(value.type, 0.0), mask, current_rounding)
