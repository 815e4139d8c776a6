"""Philox 4x32-10 on vectors: counter-based random numbers.

Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". A number depends only on its counter and
the key. So dropout needs no state: every engine, tile size and number of threads gets the same bits, and so
does the backward pass.
"""

from __future__ import annotations

from llvmlite import ir

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def philox(b: ir.IRBuilder, counter: list[ir.Value], key: list[ir.Value]) -> list[ir.Value]:
    """Four words of 32 random bits, from a counter of four words and a key of two.

    Each word is a vector of 64-bit integers, with its 32 bits in the low half. So one multiplication gives
    both halves of a product (VPMULUDQ on x86). The high halves of the result are zero.
    """
    vector = counter[0].type
    low = _splat(vector, _LOW)
    half = _splat(vector, 32)
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for turn in range(_ROUNDS):
        # The high halves may hold anything here: multiplications read only the low halves.
        product0 = b.mul(b.and_(x0, low), _splat(vector, _MULTIPLIERS[0]))
        product1 = b.mul(b.and_(x2, low), _splat(vector, _MULTIPLIERS[1]))
        x0 = b.xor(b.xor(b.lshr(product1, half), x1), k0)
        x2 = b.xor(b.xor(b.lshr(product0, half), x3), k1)
        x1, x3 = product1, product0
        if turn < _ROUNDS - 1:
            k0 = b.add(k0, _splat(vector, _WEYL[0]))
            k1 = b.add(k1, _splat(vector, _WEYL[1]))
    return [b.and_(x, low) for x in (x0, x1, x2, x3)]


def _splat(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)
