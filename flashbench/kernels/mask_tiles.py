"""A mask array on a tile of scores s[key, query lane]: added, or hiding, without a copy of the mask.

A mask lies in memory query by query, a tile key by key; where a query's entries are neighbours it is
transposed in registers, square by square. A stride of 0 means that it is broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.kernels.ir import (
    BOOL,
    FLOATS,
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    overload,
    splat,
    store,
)
from flashbench.kernels.scores import intrinsic_on_tile
from flashbench.kernels.tiles import transpose

_BYTE = ir.IntType(8)
_CHUNK = 32  # bytes of a mask looked at together

# combine(builder, what the tile holds, the mask's entry) -> what it shall hold; vectors or scalars alike.
Combine = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def _over_tile(
    b: ir.IRBuilder,
    element: ir.Type,
    entry: ir.Type,
    args: tuple[ir.Value, ...],
    combine: Combine,
) -> None:
    """tile[j, i] = combine(tile[j, i], mask[i, j]) for all keys j and queries i.

    args: tile, keys, lanes (the tile's row length), queries, mask, its stride by query and by key.
    """
    tile, keys, lanes, queries, mask, by_query, by_key = args
    vector = full_vector(element)
    count = vector.count
    entries = ir.VectorType(entry, count)
    whole_queries = b.mul(b.sdiv(queries, const(count)), const(count))
    whole_keys = b.mul(b.sdiv(keys, const(count)), const(count))

    def change(place: ir.Value, value: ir.Value) -> None:
        store(b, combine(b, load(b, tile, place, vector), value), tile, place)

    # Pass 1: whole vectors of queries, by how the mask lies.
    neighbours = b.icmp_signed("==", by_key, const(1))
    same_for_all = b.icmp_signed("==", by_query, const(0))
    squares = b.and_(neighbours, b.not_(same_for_all))
    with (
        b.if_then(squares),
        loop(b, whole_queries, step=count, carry=[]) as (query, _, _),
        loop(b, whole_keys, step=count, carry=[]) as (key, _, _),
    ):
        rows = [
            load_entries(b, mask, b.add(b.mul(b.add(query, const(i)), by_query), key), entries)
            for i in range(count)
        ]
        for j, value in enumerate(transpose(b, rows)):
            change(b.add(b.mul(b.add(key, const(j)), lanes), query), value)
    with (
        b.if_then(same_for_all),
        loop(b, keys, carry=[]) as (key, _, _),
    ):
        value = splat(b, b.load(b.gep(mask, [b.mul(key, by_key)])), count)
        with loop(b, whole_queries, step=count, carry=[]) as (query, _, _):
            change(b.add(b.mul(key, lanes), query), value)

    # Pass 2: one by one, what no vector covered.
    keys_done = b.select(same_for_all, keys, b.select(squares, whole_keys, const(0)))
    with loop(b, queries, carry=[]) as (query, _, _):
        first = b.select(b.icmp_signed("<", query, whole_queries), keys_done, const(0))
        with loop(b, keys, start=first, carry=[]) as (key, _, _):
            value = b.load(b.gep(mask, [b.add(b.mul(query, by_query), b.mul(key, by_key))]))
            cell = b.gep(tile, [b.add(b.mul(key, lanes), query)])
            b.store(combine(b, b.load(cell), value), cell)


def load_entries(b: ir.IRBuilder, mask: ir.Value, offset: ir.Value, entries: ir.VectorType) -> ir.Value:
    """Neighbouring entries of a mask, of floats or bytes."""
    at = b.bitcast(b.gep(mask, [offset]), entries.as_pointer())
    return b.load(at, align=1 if entries.element == _BYTE else 4 if entries.element == ir.FloatType() else 8)


def _filled(like: ir.Type, value: float) -> ir.Constant:
    return constant(like, value) if isinstance(like, ir.VectorType) else ir.Constant(like, value)


def _spread(b: ir.IRBuilder, scalar: ir.Value, like: ir.Type) -> ir.Value:
    return splat(b, scalar, like.count) if isinstance(like, ir.VectorType) else scalar


def _add(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        factor = args[7]

        def combine(b: ir.IRBuilder, score: ir.Value, entry: ir.Value) -> ir.Value:
            lowest = _filled(entry.type, float("-inf"))
            hidden = b.fcmp_ordered("==", entry, lowest)
            factors = _spread(b, factor, entry.type)
            if isinstance(entry.type, ir.VectorType):
                total = fma(b, entry, factors, score)
            else:
                total = b.fadd(b.fmul(entry, factors), score)
            return b.select(hidden, lowest, total)

        _over_tile(b, element, element, args[:7], combine)

    signature = [pointer, INT, INT, INT, pointer, INT, INT, element]
    return function(builder, f"fb.add_mask.{overload(full_vector(element))}", signature, body)


@intrinsic
def add_mask(
    typingctx: Any,
    s: Any,
    keys: Any,
    lanes: Any,
    queries: Any,
    mask: Any,
    by_query: Any,
    by_key: Any,
    factor: Any,
) -> Any:
    """s[j, i] += factor * mask[i, j]; -inf where the mask is -inf, whatever s holds."""
    n = types.intp
    return types.void(s, n, n, n, s, n, n, s.dtype), intrinsic_on_tile(_add)


def _clear_hidden(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        def combine(b: ir.IRBuilder, value: ir.Value, entry: ir.Value) -> ir.Value:
            hidden = b.fcmp_ordered("==", entry, _filled(entry.type, float("-inf")))
            return b.select(hidden, _filled(value.type, 0.0), value)

        _over_tile(b, element, element, args, combine)

    signature = [pointer, INT, INT, INT, pointer, INT, INT]
    return function(builder, f"fb.clear_hidden.{overload(full_vector(element))}", signature, body)


@intrinsic
def clear_minus_inf(
    typingctx: Any, tile: Any, keys: Any, lanes: Any, queries: Any, mask: Any, by_query: Any, by_key: Any
) -> Any:
    """tile[j, i] = 0 where the additive mask is -inf."""
    n = types.intp
    return types.void(tile, n, n, n, tile, n, n), intrinsic_on_tile(_clear_hidden)


def _hide(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        value = args[7]

        def combine(b: ir.IRBuilder, score: ir.Value, entry: ir.Value) -> ir.Value:
            hidden = b.icmp_unsigned("==", entry, ir.Constant(entry.type, None))
            return b.select(hidden, _spread(b, value, score.type), score)

        _over_tile(b, element, _BYTE, args[:7], combine)

    signature = [pointer, INT, INT, INT, _BYTE.as_pointer(), INT, INT, element]
    return function(builder, f"fb.hide_mask.{overload(full_vector(element))}", signature, body)


@intrinsic
def hide_masked(
    typingctx: Any,
    tile: Any,
    keys: Any,
    lanes: Any,
    queries: Any,
    mask: Any,
    by_query: Any,
    by_key: Any,
    value: Any,
) -> Any:
    """tile[j, i] = value where the bool mask[i, j] is False."""
    n = types.intp
    return types.void(tile, n, n, n, mask, n, n, tile.dtype), intrinsic_on_tile(_hide)


def _bytes_seen(builder: ir.IRBuilder) -> ir.Function:
    chunk = ir.VectorType(_BYTE, _CHUNK)
    wide = ir.IntType(8 * _CHUNK)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        mask, queries, keys, by_query, by_key = args
        some, every = ir.Constant(chunk, None), ir.Constant(chunk, [1] * _CHUNK)
        no, yes = ir.Constant(_BYTE, 0), ir.Constant(_BYTE, 1)
        neighbours = b.icmp_signed("==", by_key, const(1))
        whole = b.select(neighbours, b.mul(b.sdiv(keys, const(_CHUNK)), const(_CHUNK)), const(0))
        with loop(b, queries, carry=[some, every, no, yes]) as (query, before, after):
            row = b.gep(mask, [b.mul(query, by_query)])
            with loop(b, whole, step=_CHUNK, carry=before[:2]) as (key, wide_before, wide_after):
                entries = load_entries(b, row, key, chunk)
                wide_after += [b.or_(wide_before[0], entries), b.and_(wide_before[1], entries)]
            with loop(b, keys, start=whole, carry=before[2:]) as (key, one_before, one_after):
                entry = b.load(b.gep(row, [b.mul(key, by_key)]))
                one_after += [b.or_(one_before[0], entry), b.and_(one_before[1], entry)]
            after += [*wide_after, *one_after]
        any_wide = b.icmp_unsigned("!=", b.bitcast(after[0], wide), ir.Constant(wide, 0))
        all_wide = b.icmp_unsigned(
            "==", b.bitcast(after[1], wide), ir.Constant(wide, int.from_bytes(b"\1" * _CHUNK, "little"))
        )
        any_seen = b.or_(any_wide, b.icmp_unsigned("!=", after[2], no))
        all_seen = b.and_(all_wide, b.icmp_unsigned("==", after[3], yes))
        b.ret(b.add(b.zext(any_seen, INT), b.zext(b.and_(any_seen, all_seen), INT)))

    signature = [_BYTE.as_pointer(), INT, INT, INT, INT]
    return function(builder, "fb.bytes_seen", signature, body, result=INT)


@intrinsic
def bytes_seen(typingctx: Any, mask: Any, queries: Any, keys: Any, by_query: Any, by_key: Any) -> Any:
    """Of a bool mask's tile: 0 nothing is True, 1 some, 2 everything."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_bytes_seen(builder), args)

    return n(mask, n, n, n, n), codegen


def _floats_seen(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    bits = ir.IntType(vector.count)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        mask, queries, keys, by_query, by_key = args
        lowest, low = constant(vector, float("-inf")), ir.Constant(element, float("-inf"))
        neighbours = b.icmp_signed("==", by_key, const(1))
        size = const(vector.count)
        whole = b.select(neighbours, b.mul(b.sdiv(keys, size), size), const(0))
        carry = [ir.Constant(ir.VectorType(BOOL, vector.count), None), ir.Constant(BOOL, 0)]
        with loop(b, queries, carry=carry) as (query, before, after):
            row = b.gep(mask, [b.mul(query, by_query)])
            with loop(b, whole, step=vector.count, carry=before[:1]) as (key, wide_before, wide_after):
                seen = b.fcmp_unordered("!=", load(b, row, key, vector), lowest)
                wide_after.append(b.or_(wide_before[0], seen))
            with loop(b, keys, start=whole, carry=before[1:]) as (key, one_before, one_after):
                entry = b.load(b.gep(row, [b.mul(key, by_key)]))
                one_after.append(b.or_(one_before[0], b.fcmp_unordered("!=", entry, low)))
            after += [*wide_after, *one_after]
        some = b.icmp_unsigned("!=", b.bitcast(after[0], bits), ir.Constant(bits, 0))
        b.ret(b.zext(b.or_(some, after[1]), INT))

    signature = [element.as_pointer(), INT, INT, INT, INT]
    return function(builder, f"fb.floats_seen.{overload(vector)}", signature, body, result=INT)


@intrinsic
def floats_seen(typingctx: Any, mask: Any, queries: Any, keys: Any, by_query: Any, by_key: Any) -> Any:
    """Of an additive mask's tile: 0 where all of it is -inf, else 1."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_floats_seen(builder, FLOATS[signature.args[0].dtype]), args)

    return n(mask, n, n, n, n), codegen
