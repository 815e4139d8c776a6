"""32-bit words of two bfloat16 numbers: how they are loaded, stored, cleared and made of float32 vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, ELEMENTS, narrow
from flashbench.codegen.ir import call, const, full_vector, loop, round_up
from flashbench.codegen.isa import HAS_BFLOAT16
from flashbench.codegen.tiles import DEPTH

SHORT, WORD, FLOAT = ir.IntType(16), ir.IntType(32), ir.FloatType()
VECTOR = full_vector(FLOAT)
COUNT = VECTOR.count  # words in a vector of the target
HALF = ELEMENTS[BFLOAT16].as_pointer()


def words_of(count: int) -> ir.VectorType:
    return ir.VectorType(WORD, count)


ZERO = ir.Constant(words_of(COUNT), [0] * COUNT)


def load_stored(b: ir.IRBuilder, numbers: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
    """Bits of `kind` from numbers[offset] on. They are aligned as 16-bit numbers are."""
    return b.load(b.bitcast(b.gep(numbers, [offset]), kind.as_pointer()), align=2)


def store_stored(b: ir.IRBuilder, value: ir.Value, numbers: ir.Value, offset: ir.Value) -> None:
    """numbers[offset:] = a vector of 16-bit numbers."""
    b.store(value, b.bitcast(b.gep(numbers, [offset]), value.type.as_pointer()), align=2)


def store_words(b: ir.IRBuilder, value: ir.Value, words: ir.Value, offset: ir.Value) -> None:
    b.store(value, b.bitcast(b.gep(words, [offset]), value.type.as_pointer()), align=4)


def clear_words(b: ir.IRBuilder, words: ir.Value, start: ir.Value, stop: ir.Value) -> None:
    """words[start:stop] = 0, whole vectors."""
    with loop(b, stop, start=start, step=COUNT, carry=[]) as (place, _, _):
        store_words(b, ZERO, words, place)


def joined(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Words from two vectors of 16-bit patterns."""
    words = words_of(low.type.count)
    upper = b.shl(b.zext(high, words), ir.Constant(words, [16] * words.count))
    return b.or_(b.zext(low, words), upper)


def clear_lines(
    b: ir.IRBuilder, words: ir.Value, rows: ir.Value, width: ir.Value, stride: ir.Value | None = None
) -> None:
    """Clear the rows of words after those of `rows` rows of numbers, up to whole tiles (DEPTH rows).

    stride: words from row to row, if it is not `width`.
    """
    first = b.sdiv(b.add(rows, const(1)), const(2))
    end = b.sdiv(round_up(b, rows, DEPTH), const(2))
    with loop(b, end, start=first, carry=[]) as (line, _, _):
        start = b.mul(line, width if stride is None else stride)
        clear_words(b, words, start, b.add(start, width))


def rounded_shorts(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """The 16-bit patterns of two float32 vectors, side by side, rounded to bfloat16."""
    both = ir.VectorType(SHORT, 2 * COUNT)
    if HAS_BFLOAT16:
        return call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", both, high, low)
    patterns = [narrow(b, x, ELEMENTS[BFLOAT16]) for x in (low, high)]
    return b.shuffle_vector(*patterns, ir.Constant(words_of(2 * COUNT), list(range(2 * COUNT))))


def rounded_pairs(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Words of two float32 vectors, rounded to bfloat16. The instruction flushes denormals to zero."""
    if not HAS_BFLOAT16:
        half = ELEMENTS[BFLOAT16]
        return joined(b, narrow(b, low, half), narrow(b, high, half))
    numbers = rounded_shorts(b, low, high)
    order = [i // 2 + COUNT * (i % 2) for i in range(2 * COUNT)]
    mixed = b.shuffle_vector(numbers, numbers, ir.Constant(words_of(2 * COUNT), order))
    return b.bitcast(mixed, words_of(COUNT))


def exact_pairs(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """The same of vectors whose numbers are bfloat16 numbers: their lower 16 bits are zero."""
    patterns = [b.bitcast(x, words_of(COUNT)) for x in (low, high)]
    return b.or_(b.lshr(patterns[0], ir.Constant(words_of(COUNT), [16] * COUNT)), patterns[1])


def put_rounded(b: ir.IRBuilder, vectors: list[ir.Value], target: ir.Value, place: ir.Value) -> None:
    """Store one or two float32 vectors side by side from target[place] on, rounded in the same way."""
    if not HAS_BFLOAT16:
        for i, vector in enumerate(vectors):
            patterns = narrow(b, vector, ELEMENTS[BFLOAT16])
            store_stored(b, patterns, target, b.add(place, const(i * COUNT)))
    elif len(vectors) == 2:
        low, high = vectors
        store_stored(b, rounded_shorts(b, low, high), target, place)
    else:
        one = ir.VectorType(SHORT, COUNT)
        patterns = call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", one, vectors[0])
        store_stored(b, patterns, target, place)


@intrinsic
def halves(typingctx: Any, base: Any) -> Any:
    """The same address as a pointer to bfloat16."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], HALF)

    return types.CPointer(BFLOAT16)(base), codegen
