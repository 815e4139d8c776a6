"""A dense mask on a tile of scores s[key, query lane]: add a float mask, or hide by a bool mask.

The mask is not copied. It lies in memory as [query, key], the tile as [key, query]. If the entries of a query
are contiguous, squares of the mask are transposed in registers. A stride of 0 means broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flashbench.codegen.elements import ELEMENTS
from flashbench.codegen.intrinsics import body_by_element
from flashbench.codegen.ir import (
    BOOL,
    INT,
    const,
    constant,
    fma,
    full_vector,
    function,
    load,
    loop,
    overload,
    round_down,
    size_of,
    splat,
    store,
)
from flashbench.kernels.products.pack import transpose

_BYTE = ir.IntType(8)
_CHUNK = 32  # bytes of a mask that `bytes_shown` checks at once
_UNPACKED = 16  # bytes per block in which x86's unpack instructions interleave
# Entries below this are raised to it, by size of the element. Times log2(e) it is near the lowest float.
_LEAST_ENTRY = {4: -2.3e38, 8: -1.2e308}

# combine(builder, old value in the tile, mask entry) -> new value; for vectors and for scalars.
Combine = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


class _Masked(NamedTuple):
    """A tile and its mask."""

    tile: ir.Value
    keys: ir.Value
    lanes: ir.Value  # the tile's row length
    queries: ir.Value
    mask: ir.Value
    by_query: ir.Value  # strides, in entries
    by_key: ir.Value


def _over_tile(
    b: ir.IRBuilder, element: ir.Type, entry: ir.Type, args: tuple[ir.Value, ...], combine: Combine
) -> None:
    """tile[j, i] = combine(tile[j, i], mask[i, j]) for all keys j and queries i.

    With byte entries some keys may be processed twice, so combine must be idempotent. args: the fields of
    `_Masked`.
    """
    tile, keys, lanes, queries, mask, by_query, by_key = args
    vector = full_vector(element)
    count = vector.count
    whole_queries = round_down(b, queries, count)

    # Pass 1: whole vectors of queries. The method depends on the mask's strides.
    neighbours = b.icmp_signed("==", by_key, const(1))
    same_for_all = b.icmp_signed("==", by_query, const(0))
    here = b.block
    with b.if_then(b.and_(neighbours, b.not_(same_for_all))):
        squares = _byte_squares if entry == _BYTE else _float_squares
        whole = _Masked(tile, keys, lanes, whole_queries, mask, by_query, by_key)
        done = squares(b, vector, whole, combine)
        there = b.block
    transposed = b.phi(INT)
    transposed.add_incoming(const(0), here)
    transposed.add_incoming(done, there)
    with b.if_then(same_for_all), loop(b, keys, carry=[]) as (key, _, _):
        value = splat(b, b.load(b.gep(mask, [b.mul(key, by_key)])), count)
        with loop(b, whole_queries, step=count, carry=[]) as (query, _, _):
            place = b.add(b.mul(key, lanes), query)
            store(b, combine(b, load(b, tile, place, vector), value), tile, place)

    # Pass 2: the remaining pairs, one by one.
    keys_done = b.select(same_for_all, keys, transposed)
    with loop(b, queries, carry=[]) as (query, _, _):
        first = b.select(b.icmp_signed("<", query, whole_queries), keys_done, const(0))
        with loop(b, keys, start=first, carry=[]) as (key, _, _):
            value = b.load(b.gep(mask, [b.add(b.mul(query, by_query), b.mul(key, by_key))]))
            cell = b.gep(tile, [b.add(b.mul(key, lanes), query)])
            b.store(combine(b, b.load(cell), value), cell)


def _float_squares(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    masked: _Masked,
    combine: Combine,
) -> ir.Value:
    """Process keys in squares with a vector's side, then with half of it. Returns the number of keys done."""
    done: ir.Value = const(0)
    for side in (vector.count, vector.count // 2):
        if side == 1:
            continue
        square = ir.VectorType(vector.element, side)
        with (
            loop(b, masked.queries, step=side, carry=[]) as (query, _, _),
            loop(b, masked.keys, start=done, step=side, carry=[]) as (key, _, _),
        ):
            rows = [
                load(b, masked.mask, b.add(b.mul(b.add(query, const(i)), masked.by_query), key), square)
                for i in range(side)
            ]
            for j, value in enumerate(transpose(b, rows)):
                place = b.add(b.mul(b.add(key, const(j)), masked.lanes), query)
                store(b, combine(b, load(b, masked.tile, place, square), value), masked.tile, place)
        done = b.add(done, b.mul(b.sdiv(b.sub(masked.keys, done), const(side)), const(side)))
    return done


def _byte_squares(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    masked: _Masked,
    combine: Combine,
) -> ir.Value:
    """Process all keys in chunks of one register of bytes, or of 16 bytes if there are fewer keys than that.

    Returns the number of keys done: all, or 0 if there are fewer than 16. The last chunk ends with the last
    key and may overlap the chunk before.
    """
    full = vector.count * size_of(vector.element)
    many = b.icmp_signed(">=", masked.keys, const(full))
    enough = b.icmp_signed(">=", masked.keys, const(_UNPACKED))
    with b.if_else(many) as (wide, narrow):
        with wide:
            _byte_chunks(b, vector, full, masked, combine)
        with narrow, b.if_then(enough):
            _byte_chunks(b, vector, _UNPACKED, masked, combine)
    return b.select(enough, masked.keys, const(0))


def _byte_chunks(
    b: ir.IRBuilder,
    vector: ir.VectorType,
    size: int,
    masked: _Masked,
    combine: Combine,
) -> None:
    """Transpose chunks of `size` bytes and apply them.

    Bytes are interleaved within blocks of 16, as x86's unpack instructions do. Then byte 16 l + side c + i of
    register j is the entry of query i and key 16 l + (16 / side) j + c.
    """
    side = vector.count
    chunk = ir.VectorType(_BYTE, size)
    bits = ir.IntType(size)
    last = b.sub(masked.keys, const(size))
    with (
        loop(b, masked.queries, step=side, carry=[]) as (query, _, _),
        loop(b, b.add(masked.keys, const(size - 1)), step=size, carry=[]) as (ahead, _, _),
    ):
        key = b.select(b.icmp_signed("<", ahead, last), ahead, last)
        registers = [
            load_entries(b, masked.mask, b.add(b.mul(b.add(query, const(i)), masked.by_query), key), chunk)
            for i in range(side)
        ]
        for j, register in enumerate(_interleaved(b, registers)):
            shown = b.icmp_unsigned("!=", register, ir.Constant(chunk, None))
            flags = b.bitcast(shown, bits)
            for place in range(0, size, side):
                block, within = divmod(place, _UNPACKED)
                column = _UNPACKED * block + _UNPACKED // side * j + within // side
                few = b.trunc(b.lshr(flags, ir.Constant(bits, place)), ir.IntType(side))
                entry = b.bitcast(few, ir.VectorType(BOOL, side))
                at = b.add(b.mul(b.add(key, const(column)), masked.lanes), query)
                store(b, combine(b, load(b, masked.tile, at, vector), entry), masked.tile, at)


def _interleaved(b: ir.IRBuilder, registers: list[ir.Value]) -> list[ir.Value]:
    """Interleave registers byte by byte: the first with the middle one, and so on, log2(registers) times."""
    count = registers[0].type.count
    indices = ir.VectorType(ir.IntType(32), count)
    halves = []
    for half in (0, _UNPACKED // 2):
        order = []
        for start in range(0, count, _UNPACKED):
            for i in range(_UNPACKED // 2):
                order += [start + half + i, count + start + half + i]
        halves.append(ir.Constant(indices, order))
    turns = len(registers).bit_length() - 1
    middle = len(registers) // 2
    for _ in range(turns):
        pairs = zip(registers[:middle], registers[middle:], strict=True)
        registers = [b.shuffle_vector(low, high, order) for low, high in pairs for order in halves]
    return registers


def load_entries(b: ir.IRBuilder, mask: ir.Value, offset: ir.Value, entries: ir.VectorType) -> ir.Value:
    """Load contiguous entries of a mask, floats or bytes."""
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
            # Some models fill masks with the lowest float. It is not -inf, so it must stay finite.
            least = _filled(entry.type, _LEAST_ENTRY[size_of(element)])
            entry = b.select(b.fcmp_ordered("<", entry, least), least, entry)
            return b.select(hidden, lowest, fma(b, entry, factors, score))

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
    """s[j, i] += factor * mask[i, j]; -inf where the mask is -inf, even if s is NaN."""
    n = types.intp
    return types.void(s, n, n, n, s, n, n, s.dtype), body_by_element(_add)


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
    return types.void(tile, n, n, n, tile, n, n), body_by_element(_clear_hidden)


def _hide(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    pointer = element.as_pointer()

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        value = args[7]

        def combine(b: ir.IRBuilder, score: ir.Value, entry: ir.Value) -> ir.Value:
            shown = entry
            if entry.type not in (BOOL, ir.VectorType(BOOL, full_vector(element).count)):
                shown = b.icmp_unsigned("!=", entry, ir.Constant(entry.type, None))
            return b.select(shown, score, _spread(b, value, score.type))

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
    return types.void(tile, n, n, n, mask, n, n, tile.dtype), body_by_element(_hide)


def _bytes_shown(builder: ir.IRBuilder) -> ir.Function:
    chunk = ir.VectorType(_BYTE, _CHUNK)
    wide = ir.IntType(8 * _CHUNK)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        row, keys, by_key = args
        neighbours = b.icmp_signed("==", by_key, const(1))
        whole = b.select(neighbours, round_down(b, keys, _CHUNK), const(0))
        none, ones = ir.Constant(chunk, None), ir.Constant(chunk, [1] * _CHUNK)
        with loop(b, whole, step=_CHUNK, carry=[none, ones]) as (key, before, chunks):
            entries = load_entries(b, row, key, chunk)
            chunks += [b.or_(before[0], entries), b.and_(before[1], entries)]
        no, yes = ir.Constant(_BYTE, 0), ir.Constant(_BYTE, 1)
        with loop(b, keys, start=whole, carry=[no, yes]) as (key, before, singles):
            entry = b.load(b.gep(row, [b.mul(key, by_key)]))
            singles += [b.or_(before[0], entry), b.and_(before[1], entry)]
        all_ones = int.from_bytes(b"\1" * _CHUNK, "little")
        some = b.or_(
            b.icmp_unsigned("!=", b.bitcast(chunks[0], wide), ir.Constant(wide, 0)),
            b.icmp_unsigned("!=", singles[0], no),
        )
        every = b.and_(
            b.icmp_unsigned("==", b.bitcast(chunks[1], wide), ir.Constant(wide, all_ones)),
            b.icmp_unsigned("==", singles[1], yes),
        )
        b.ret(b.add(b.zext(some, INT), b.zext(b.and_(some, every), INT)))

    return function(builder, "fb.bytes_shown", [_BYTE.as_pointer(), INT, INT], body, result=INT)


@intrinsic
def bytes_shown(typingctx: Any, row: Any, keys: Any, by_key: Any) -> Any:
    """Entries of one query in a bool mask: 0 none is True, 1 some are True, 2 all are True."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_bytes_shown(builder), args)

    return n(row, n, n), codegen


def _floats_shown(builder: ir.IRBuilder, element: ir.Type) -> ir.Function:
    vector = full_vector(element)
    bits = ir.IntType(vector.count)

    def body(b: ir.IRBuilder, *args: ir.Value) -> None:
        row, keys, by_key = args
        size = const(vector.count)
        neighbours = b.icmp_signed("==", by_key, const(1))
        whole = b.select(neighbours, b.mul(b.sdiv(keys, size), size), const(0))
        none = ir.Constant(ir.VectorType(BOOL, vector.count), None)
        with loop(b, whole, step=vector.count, carry=[none]) as (key, before, vectors):
            shown = b.fcmp_unordered("!=", load(b, row, key, vector), constant(vector, float("-inf")))
            vectors.append(b.or_(before[0], shown))
        with loop(b, keys, start=whole, carry=[ir.Constant(BOOL, 0)]) as (key, before, singles):
            entry = b.load(b.gep(row, [b.mul(key, by_key)]))
            shown = b.fcmp_unordered("!=", entry, ir.Constant(element, float("-inf")))
            singles.append(b.or_(before[0], shown))
        some = b.icmp_unsigned("!=", b.bitcast(vectors[0], bits), ir.Constant(bits, 0))
        b.ret(b.zext(b.or_(some, singles[0]), INT))

    name = f"fb.floats_shown.{overload(vector)}"
    return function(builder, name, [element.as_pointer(), INT, INT], body, result=INT)


@intrinsic
def floats_shown(typingctx: Any, row: Any, keys: Any, by_key: Any) -> Any:
    """Entries of one query in a float mask: 0 all are -inf, else 1."""
    n = types.intp

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.call(_floats_shown(builder, ELEMENTS[signature.args[0].dtype]), args)

    return n(row, n, n), codegen
