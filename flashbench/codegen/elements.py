"""The element types of pointers: float32, float64, and 16-bit floats, which Numba does not have.

A 16-bit float exists in memory only. A load widens it to float32 and a store rounds it from float32, so that
kernels compute with float32 and never see one. In Numba it is a type of its own (`BFLOAT16`, `FLOAT16`); in
LLVM it is an i16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from flashbench.codegen.isa import CONVERTS_FLOAT16, ISA
from flashbench.dtypes import DTYPES, Dtype

_I32 = ir.IntType(32)
_FLOAT = ir.FloatType()


class HalfType(ir.Type):
    """A 16-bit float in LLVM IR: the type of its bit pattern, i16, under a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _to_string(self) -> str:
        return "i16"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HalfType) and other.name == self.name

    def __hash__(self) -> int:
        return hash((HalfType, self.name))


class Half(types.Type):
    """A 16-bit float in Numba: the element type of a pointer."""


BFLOAT16, FLOAT16 = Half("bfloat16"), Half("float16")
ELEMENTS: dict[Any, ir.Type] = {
    types.float32: _FLOAT,
    types.float64: ir.DoubleType(),
    BFLOAT16: HalfType("bfloat16"),
    FLOAT16: HalfType("float16"),
}
_NAMES = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": types.float32, "float64": types.float64}


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, ELEMENTS[fe_type])


def element_types(dtype: Dtype) -> tuple[Any, Any]:
    """The Numba types of a dtype's storage and of its accumulator."""
    return _NAMES[dtype], _NAMES[DTYPES[dtype].accumulator]


def lanes_at_once(storage: ir.Type) -> int:
    """Lanes of a tile of queries are a multiple of this: one vector of numbers.

    At least 16 where numbers may be multiplied on tile registers of AMX, or on their emulation on any CPU:
    these have 16 lanes.
    """
    return ISA.lanes(8) if isinstance(storage, ir.DoubleType) else max(16, ISA.lanes(4))


def lanes_of(dtype: Dtype) -> int:
    """The same for a dtype."""
    return lanes_at_once(ELEMENTS[_NAMES[dtype]])


def accumulator_type(element: ir.Type) -> ir.Type:
    """The LLVM type that loads of this element give: float for a 16-bit float."""
    return _FLOAT if isinstance(element, HalfType) else element


def _like(model: ir.Type, scalar: ir.Type) -> ir.Type:
    """`scalar`, or a vector of it with as many lanes as `model` has."""
    return ir.VectorType(scalar, model.count) if isinstance(model, ir.VectorType) else scalar


def _words(b: ir.IRBuilder, model: ir.Type) -> Callable[[int], ir.Constant]:
    """A function that makes constants of i32, or vectors of them, for values of `model`'s shape."""

    def word(value: int) -> ir.Constant:
        kind = _like(model, _I32)
        return ir.Constant(kind, [value] * model.count if isinstance(model, ir.VectorType) else value)

    return word


def widen(b: ir.IRBuilder, patterns: ir.Value, half: HalfType) -> ir.Value:
    """The float32 numbers of 16-bit patterns (i16, or a vector of it), exactly. A NaN keeps its payload."""
    if half.name == "float16" and CONVERTS_FLOAT16:
        return b.fpext(b.bitcast(patterns, _like(patterns.type, ir.HalfType())), _like(patterns.type, _FLOAT))
    bits, word = b.zext(patterns, _like(patterns.type, _I32)), _words(b, patterns.type)
    floats = _like(patterns.type, _FLOAT)
    if half.name == "bfloat16":
        return b.bitcast(b.shl(bits, word(16)), floats)
    # Put the bits of |x| at their places in a float32. Its exponent is then too low by 112, for subnormal
    # numbers too: one multiplication mends both. The exponent of inf and NaN is set afterwards.
    magnitude = b.shl(b.and_(bits, word(0x7FFF)), word(13))
    powers = b.bitcast(word((127 + 112) << 23), floats)
    scaled = b.bitcast(b.fmul(b.bitcast(magnitude, floats), powers), bits.type)
    special = b.icmp_unsigned(">=", magnitude, word(0x7C00 << 13))
    scaled = b.or_(scaled, b.select(special, word(0xFF << 23), word(0)))
    return b.bitcast(b.or_(scaled, b.shl(b.and_(bits, word(0x8000)), word(16))), floats)


def narrow(b: ir.IRBuilder, numbers: ir.Value, half: HalfType) -> ir.Value:
    """The 16-bit patterns of float32 numbers, rounded to nearest, ties to even. NaN stays a (quiet) NaN."""
    shorts = _like(numbers.type, ir.IntType(16))
    if half.name == "float16" and CONVERTS_FLOAT16:
        return b.bitcast(b.fptrunc(numbers, _like(numbers.type, ir.HalfType())), shorts)
    bits, word = b.bitcast(numbers, _like(numbers.type, _I32)), _words(b, numbers.type)
    rounded = _bfloat16_bits(b, bits, word) if half.name == "bfloat16" else _float16_bits(b, bits, word)
    return b.trunc(rounded, shorts)


Word = Callable[[int], ir.Constant]


def _bfloat16_bits(b: ir.IRBuilder, bits: ir.Value, word: Word) -> ir.Value:
    odd = b.and_(b.lshr(bits, word(16)), word(1))
    rounded = b.lshr(b.add(b.add(bits, odd), word(0x7FFF)), word(16))
    is_nan = b.icmp_unsigned(">", b.and_(bits, word(0x7FFFFFFF)), word(0x7F800000))
    return b.select(is_nan, b.or_(b.lshr(bits, word(16)), word(0x40)), rounded)


def _float16_bits(b: ir.IRBuilder, bits: ir.Value, word: Word) -> ir.Value:
    """For CPUs without an instruction."""
    floats = _like(bits.type, _FLOAT)
    magnitude = b.and_(bits, word(0x7FFFFFFF))
    # Normal in float16: move the exponent and round the 13 low bits. A carry may reach infinity, rightly.
    odd = b.and_(b.lshr(magnitude, word(13)), word(1))
    normal = b.lshr(b.add(b.add(magnitude, odd), word(0xFFF - (112 << 23) & 0xFFFFFFFF)), word(13))
    # Subnormal in float16: adding 0.5 leaves the bits of the result in the low bits, rounded by the FPU.
    half_one = word(126 << 23)
    moved = b.fadd(b.bitcast(magnitude, floats), b.bitcast(half_one, floats))
    small = b.sub(b.bitcast(moved, bits.type), half_one)
    result = b.select(b.icmp_unsigned("<", magnitude, word(113 << 23)), small, normal)
    result = b.select(b.icmp_unsigned(">=", magnitude, word(143 << 23)), word(0x7C00), result)
    result = b.select(b.icmp_unsigned(">", magnitude, word(0x7F800000)), word(0x7E00), result)
    return b.or_(result, b.and_(b.lshr(bits, word(16)), word(0x8000)))
