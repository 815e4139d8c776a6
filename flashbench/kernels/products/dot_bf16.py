"""Products of bfloat16 by AVX512-BF16: VDPBF16PS multiplies 16 pairs of numbers and adds them to 16 sums.

The micro-kernel is that of float32, with pairs in place of numbers: half as many steps. The instruction takes
denormal numbers for zero, and rounds to nearest, ties to even.

"dot_bf16-emulated" does the same with two multiply-adds of float32 per step, on any CPU. It is slow: it is
there to test the product where the instruction does not exist.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from flashbench.codegen.denormals import begin_flushing, end_flushing
from flashbench.codegen.ir import call, fma
from flashbench.codegen.steps import step
from flashbench.kernels.products import Matrix, Product
from flashbench.kernels.products.exponentiate import exponentiate_by, finish_exact_scores
from flashbench.kernels.products.fma import put_row_sums, row_sums, scale_row_sums
from flashbench.kernels.products.gradient_weights import gradient_weights_by
from flashbench.kernels.products.multiply import Instruction, multiplication
from flashbench.kernels.products.pairs import pack_pairs, padded_rows, pair_rows
from flashbench.kernels.products.weights import ROUNDED, clear_lanes, key_weights, weights_of
from flashbench.kernels.products.words import halves, load_stored

_WORD = ir.IntType(32)
_FEWEST = 4  # lanes of the narrowest vectors that the instruction takes


def _words(count: int) -> ir.VectorType:
    return ir.VectorType(_WORD, count)


def _load_word(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value) -> ir.Value:
    return load_stored(b, pointer, offset, _WORD)


def _load_words(b: ir.IRBuilder, pointer: ir.Value, offset: ir.Value, vector: ir.VectorType) -> ir.Value:
    return load_stored(b, pointer, offset, _words(vector.count))


def dot(b: ir.IRBuilder, x: ir.Value, y: ir.Value, total: ir.Value) -> ir.Value:
    """total + x.low * y.low + x.high * y.high in each lane, by VDPBF16PS. x, y: words."""
    count = total.type.count
    if count < _FEWEST:
        whole = dot(b, *(_lanes(b, value, _FEWEST) for value in (x, y, total)))
        return _lanes(b, whole, count)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * count}"
    return call(b, name, total.type, total, x, y)


def _lanes(b: ir.IRBuilder, vector: ir.Value, count: int) -> ir.Value:
    """The first `count` lanes; after its last lane, zeros."""
    there = vector.type.count
    zero = ir.Constant(vector.type, [0] * there)
    return b.shuffle_vector(vector, zero, ir.Constant(_words(count), [min(i, there) for i in range(count)]))


def _emulated_dot(b: ir.IRBuilder, x: ir.Value, y: ir.Value, total: ir.Value) -> ir.Value:
    """The same by multiply-adds, in the order of the instruction: the high halves first."""
    count = total.type.count
    upper, sixteen = (ir.Constant(_words(count), [value] * count) for value in (0xFFFF0000, 16))
    high = [b.bitcast(b.and_(words, upper), total.type) for words in (x, y)]
    low = [b.bitcast(b.shl(words, sixteen), total.type) for words in (x, y)]
    return fma(b, low[0], low[1], fma(b, high[0], high[1], total))


@step
def _pack(x, rows, columns, packed, lanes, factor):
    pack_pairs(x, rows, columns, packed, lanes, lanes)


@step
def _keys(x, rows, columns, room):
    """The rows themselves, or if their last number has no neighbour, a copy that ends in a zero."""
    if columns % 2:
        return padded_rows(x, rows, columns, room, columns + 1)
    return x


def _product(name: str, multiply: Any) -> Product:
    """The product on the micro-kernel `multiply`, whose elements are pairs."""
    put_gradient_weights = gradient_weights_by(ROUNDED)

    # Strides count 16-bit numbers: neighbouring pairs are 2 apart.

    @step
    def scores(s, keys, packed, lanes, rows, depth):
        pairs = Matrix(halves(packed), 2 * lanes)
        multiply(keys.at, keys.row, 2, pairs, Matrix(s, lanes), rows, lanes, (depth + 1) // 2, False)

    @step
    def add_to_queries(w, lanes, x, sums, queries, columns, keys, add):
        target = Matrix(sums.at, sums.query)
        multiply(w, 2, 2 * lanes, x, target, queries, columns, (keys + 1) // 2, add)

    @step
    def add_to_keys(w, lanes, x, sums, keys, columns, queries, add):
        if queries % 2:  # the last query's neighbour is a lane without one
            clear_lanes(w, lanes, queries, keys)
        multiply(w, lanes, 2, x, sums, keys, columns, (queries + 1) // 2, add)

    @step
    def gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms):
        put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, lanes)

    return Product(
        name=name,
        exact=True,
        parts=1,
        begin=begin_flushing,
        end=end_flushing,
        pack=_pack,
        keys=_keys,
        values=pair_rows,
        turned=pair_rows,
        weights=weights_of(ROUNDED),
        queries=pair_rows,
        key_weights=key_weights,
        gradient_weights=gradient_weights,
        scores=scores,
        finish_scores=finish_exact_scores,
        exponentiate=exponentiate_by(ROUNDED),
        add_to_queries=add_to_queries,
        add_to_keys=add_to_keys,
        sums=row_sums,
        scale=scale_row_sums,
        put=put_row_sums,
    )


BY_DOT = Instruction("dot_bf16", 2, _load_word, _load_words, dot)
BY_EMULATED_DOT = BY_DOT._replace(name="dot_bf16-emulated", add=_emulated_dot)
multiply, multiply_emulated = multiplication(BY_DOT), multiplication(BY_EMULATED_DOT)
DOT_BF16 = _product(BY_DOT.name, multiply)
EMULATED_DOT_BF16 = _product(BY_EMULATED_DOT.name, multiply_emulated)
