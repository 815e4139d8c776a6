"""Dropout on a row of probabilities in memory. Random bits depend only on the pair and the seed.

Philox 4x32-10 with counter (j // 4, i, h, b) and the seed as key gives four words. The pair of query i and
key j, of head h in sequence b, is kept if word j % 4 >= `threshold`. threshold: the rate in units of 2**-32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.intrinsics import body_by_element
from flashbench.codegen.ir import (
    INT,
    const,
    constant,
    full_vector,
    function,
    lane_numbers,
    load,
    loop,
    overload,
    round_down,
    splat,
    store,
)
from flashbench.kernels.maths.philox import philox
from flashbench.kernels.row.softmax import clear, pieces

_WORDS = 4
_GROUPS = 8  # counters per vector: Philox computes each word in 64 bits
_CHUNK = _WORDS * _GROUPS
_WORD = ir.IntType(32)


class RowDraws(NamedTuple):
    """The position of a row in the stream of random words: its query, head, sequence and the seed."""

    query: Any
    head: Any
    sequence: Any
    seed: Any
    threshold: Any


def _words(b: ir.IRBuilder, group: ir.Value, place: list[ir.Value], seed: ir.Value) -> ir.Value:
    """The random words of 32 keys, in order. group: the first key's index // 4."""

    def wide(value: ir.Value) -> ir.Value:
        return splat(b, value, _GROUPS)

    key = [wide(b.and_(seed, const(0xFFFFFFFF))), wide(b.lshr(seed, const(32)))]
    counter = [b.add(wide(group), lane_numbers(_GROUPS)), *(wide(value) for value in place)]
    parts = [b.trunc(part, ir.VectorType(_WORD, _GROUPS)) for part in philox(b, counter, key)]
    both = ir.Constant(ir.VectorType(_WORD, 2 * _GROUPS), list(range(2 * _GROUPS)))
    low, high = (b.shuffle_vector(parts[i], parts[i + 1], both) for i in (0, 2))
    order = [word * _GROUPS + turn for turn in range(_GROUPS) for word in range(_WORDS)]
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_WORD, _CHUNK), order))


def _drop_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()
    chunk = ir.VectorType(element, _CHUNK)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        p, dropped, columns, first, end, factor, query, head, sequence, seed, threshold = args
        few = b.alloca(chunk)
        factors, zeros = splat(b, factor, _CHUNK), constant(chunk, 0.0)
        thresholds = splat(b, b.trunc(threshold, _WORD), _CHUNK)
        begin = round_down(b, first, _CHUNK)
        stop = b.add(end, const(_CHUNK - 1))
        with loop(b, stop, start=begin, step=_CHUNK, carry=[]) as (column, _, _):
            words = _words(b, b.sdiv(column, const(_WORDS)), [query, head, sequence], seed)
            kept = b.icmp_unsigned(">=", words, thresholds)
            further = b.add(column, const(_CHUNK))
            inside = b.and_(b.icmp_signed(">=", column, first), b.icmp_signed("<=", further, end))
            with b.if_else(inside) as (whole, part):
                with whole:
                    weights = b.select(kept, factors, zeros)
                    store(b, b.fmul(load(b, p, column, chunk), weights), dropped, column)
                with part:  # one by one: memory beyond the row may belong to another thread
                    store(b, b.select(kept, factors, zeros), few, const(0))
                    left = b.select(b.icmp_signed("<", column, first), first, column)
                    right = b.select(b.icmp_signed("<", further, end), further, end)
                    with loop(b, right, start=left, carry=[]) as (j, _, _):
                        weight = b.load(b.gep(b.bitcast(few, pointer), [b.sub(j, column)]))
                        b.store(b.fmul(b.load(b.gep(p, [j])), weight), b.gep(dropped, [j]))
        clear(b, element, dropped, const(0), first)
        clear(b, element, dropped, end, columns)

    name = f"fb.drop_row.{overload(full_vector(element))}"
    signature = [pointer, pointer, INT, INT, INT, element, INT, INT, INT, INT, INT]
    return function(builder, name, signature, body)


@intrinsic
def drop_row(
    typingctx: Any,
    p: Any,
    dropped: Any,
    columns: Any,
    first: Any,
    end: Any,
    factor: Any,
    draws: Any,
) -> Any:
    """dropped[first:end] = factor * p for kept pairs and 0 * p for dropped ones, so that NaN stays NaN.

    The rest of dropped[:columns] becomes 0. dropped may be p itself. draws: a `RowDraws`.
    """
    n = types.intp
    return types.void(p, p, n, n, n, p.dtype, draws), body_by_element(_drop_row)


def _drop_gradient_row(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        dp, dropped, count, factor = args
        for vector, first, last in pieces(b, element, count):
            factors, zero = splat(b, factor, vector.count), constant(vector, 0.0)
            with loop(b, last, start=first, step=vector.count, carry=[]) as (column, _, _):
                kept = b.fcmp_unordered("!=", load(b, dropped, column, vector), zero)
                grown = b.fmul(load(b, dp, column, vector), factors)
                store(b, b.select(kept, grown, zero), dp, column)

    name = f"fb.drop_gradient_row.{overload(full_vector(element))}"
    return function(builder, name, [pointer, pointer, INT, element], body)


@intrinsic
def drop_gradient_row(typingctx: Any, dp: Any, dropped: Any, count: Any, factor: Any) -> Any:
    """dp becomes factor * dp where dropped is not 0, else 0. dropped: from `drop_row`."""
    return types.void(dp, dp, types.intp, dp.dtype), body_by_element(_drop_gradient_row)
