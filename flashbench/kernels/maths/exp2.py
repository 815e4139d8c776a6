"""Vector 2**x: the one exponential of all kernels.

x = n + f, with n an integer and |f| <= 1/2. 2**f is a near-minimax polynomial; 2**n is written to the
exponent bits. 2**-inf is exactly 0, and NaN stays NaN. Results below 2**-100 in float32 and 2**-1000 in
float64 are 0. They add nothing to a sum that has a term of 2**-8 or more. Products with them would be
denormal, which costs a CPU about a hundred cycles each. The row maximum is subtracted from scores first, so
x <= 0 and nothing overflows.

Whole vectors of AVX-512 have n = floor(x) and 0 <= f < 1, for which it has instructions: VREDUCE and VSCALEF.
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

# The same of degree 6 for all bits of float32, on AVX-512: largest relative error 2.2e-9.
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

# How AVX-512's instructions round: immediates of VREDUCE, and rounding of intrinsics.
_WORD = ir.IntType(32)
_DOWNWARDS, _NO_EXCEPTIONS, _AS_SET = 1, 8, 4

_LOWEST = {4: -100.0, 8: -1000.0}  # by size of the element

# q on [0, 1/16], degree 5 (largest relative error 7.6e-18).
_FLOAT64_SIXTEENTHS = (
    0.6931471805599377,
    0.24022650696146328,
    0.05550410841954057,
    0.009618140803127449,
    0.0013330742239606786,
    0.00015736283143053643,
)
_POWERS_OF_SIXTEENTHS = [2.0 ** (i / 16) for i in range(16)]


def exp2(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2**x for a vector x <= MOST_ABOVE, -inf and NaN included."""
    single = size_of(x.type.element) == 4
    if not _fills_avx512(x):
        return _exp2(builder, x, _FLOAT32 if single else _FLOAT64)
    counts = builder.bitcast(_counts(builder, x), ir.IntType(x.type.count))
    return _exp2_upwards(builder, x, _UPWARDS, counts) if single else _exp2_by_sixteenths(builder, x, counts)


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


def _exp2_upwards(
    builder: ir.IRBuilder, x: ir.Value, coefficients: tuple[float, ...], counts: ir.Value | None = None
) -> ir.Value:
    """2**x = 2**(x - floor(x)) * 2**floor(x). counts: a mask of the lanes that are not 0; None: all."""
    fraction = _above_multiple_of(builder, x, 0)
    return _times_power(builder, _polynomial(builder, fraction, coefficients), x, counts)


def _exp2_by_sixteenths(builder: ir.IRBuilder, x: ir.Value, counts: ir.Value) -> ir.Value:
    """The same of float64, with n the multiple of 1/16 below x. A table in two registers gives 2**(n mod 1).

    This saves four multiply-adds. In float32 a table gained nothing when measured.
    """
    vector = x.type
    # The sum is rounded downwards to a multiple of 1/16, and its low bits count them.
    magic, downwards = constant(vector, 1.5 * 2.0**52 / 16), ir.Constant(_WORD, _DOWNWARDS | _NO_EXCEPTIONS)
    shifted = call(builder, "llvm.x86.avx512.add.pd.512", vector, x, magic, downwards)
    low, high = (ir.Constant(vector, half) for half in (_POWERS_OF_SIXTEENTHS[:8], _POWERS_OF_SIXTEENTHS[8:]))
    index = builder.bitcast(shifted, integer_like(vector))
    power = call(builder, "llvm.x86.avx512.vpermi2var.pd.512", vector, low, index, high)
    fraction = _above_multiple_of(builder, x, 4)
    rest = builder.fmul(fraction, _polynomial(builder, fraction, _FLOAT64_SIXTEENTHS))
    return _times_power(builder, fma(builder, power, rest, power), x, counts)


def _above_multiple_of(builder: ir.IRBuilder, x: ir.Value, bits: int) -> ir.Value:
    """x minus the multiple of 2**-bits below it: AVX-512's VREDUCE."""
    vector, every = x.type, ir.Constant(ir.IntType(x.type.count), -1)
    how = ir.Constant(_WORD, bits << 4 | _NO_EXCEPTIONS | _DOWNWARDS)
    name = f"llvm.x86.avx512.mask.reduce.{_suffix(vector)}.512"
    return call(builder, name, vector, x, how, constant(vector, 0.0), every, ir.Constant(_WORD, _AS_SET))


def _times_power(builder: ir.IRBuilder, value: ir.Value, x: ir.Value, counts: ir.Value | None) -> ir.Value:
    """value * 2**floor(x) by AVX-512's VSCALEF; 0 in lanes that do not count."""
    vector = value.type
    mask = ir.Constant(ir.IntType(vector.count), -1) if counts is None else counts
    name = f"llvm.x86.avx512.mask.scalef.{_suffix(vector)}.512"
    return call(builder, name, vector, value, x, constant(vector, 0.0), mask, ir.Constant(_WORD, _AS_SET))


def _suffix(vector: ir.VectorType) -> str:
    return "ps" if size_of(vector.element) == 4 else "pd"
