"""Products of pairs of bfloat16: each step against NumPy in float64, in memory full of NaN."""

import functools

import numpy as np
import pytest
from helpers.dot_bf16 import KINDS, needs_dot_bf16
from helpers.support import assert_close
from helpers.tiles import padded, tile_inside_nan
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.isa import FAST_DOTS, ISA
from flashbench.codegen.pointers import address_in, pointer
from flashbench.dtypes import DTYPES
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.paths import PATHS, path_of
from flashbench.kernels.products.words import halves

VECTOR = ISA.lanes(4)
BFLOAT16 = DTYPES["bfloat16"]


class Tile:
    """Rows of bfloat16 inside memory of NaN, with any stride."""

    def __init__(self, rng, rows, columns, more):
        self.rows = tile_inside_nan(rows, columns, more, more)
        self.rows[:] = BFLOAT16.make(rng.standard_normal((rows, columns)))
        self.place = self.rows.ctypes.data, columns + more

    @property
    def numbers(self):
        return BFLOAT16.view(self.rows).astype(float)


def scratch(*shape):
    """Float32 at the start of a cache line, full of NaN as scratch may be."""
    memory = np.full(int(np.prod(shape)) + 16, np.nan, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + int(np.prod(shape))].reshape(shape)


def room_for(rows, columns):
    return scratch(padded(rows, 32), padded(columns, 32))


def rounded(p):
    return BFLOAT16.view(BFLOAT16.make(p)).astype(float)


@functools.cache
def compiled_steps(path):
    """The steps of a path's product as functions of addresses: (scores, add_to_queries, add_to_keys)."""
    product = PATHS[path].product

    @njit
    def scores(zero, q, q_row, k, k_row, sizes, packed, k_room, s):
        queries, keys, depth, lanes, split = sizes
        product.pack(
            Matrix(halves(pointer(zero, q)), q_row), queries, depth, pointer(zero, packed), lanes, zero
        )
        x = product.keys(Matrix(halves(pointer(zero, k)), k_row), keys, depth, pointer(zero, k_room))
        # In two pieces, as kernels may call it.
        product.scores(pointer(zero, s), x, pointer(zero, packed), lanes, split, depth)
        rest = Matrix(halves(pointer(zero, address_in(x.at) + 2 * split * x.row)), x.row)
        s_rest = pointer(zero, s + 4 * split * lanes)
        product.scores(s_rest, rest, pointer(zero, packed), lanes, keys - split, depth)
        return address_in(x.at)

    @njit
    def add_to_queries(zero, p, v, v_row, sizes, room, sums, turns, add):
        queries, keys, columns, lanes = sizes
        x = Matrix(halves(pointer(zero, v)), v_row)
        rows = pointer(zero, room)
        if turns:
            in_room = product.keys(x, keys, columns, pointer(zero, turns))
            x = product.turned(in_room, keys, columns, rows)
        else:
            x = product.values(x, keys, columns, rows)
        w = product.weights(pointer(zero, p), lanes, keys, pointer(zero, p))
        target = product.sums(pointer(zero, sums), lanes, columns)
        product.add_to_queries(w, lanes, x, target, queries, columns, keys, add)
        return target.query

    @njit
    def add_to_keys(zero, p, x, x_row, sizes, rooms, sums, sums_row, add):
        queries, keys, columns, lanes = sizes
        x = Matrix(halves(pointer(zero, x)), x_row)
        x = product.queries(x, queries, columns, pointer(zero, rooms[0]))
        w = product.key_weights(pointer(zero, p), lanes, keys, pointer(zero, rooms[1]))
        target = Matrix(pointer(zero, sums), sums_row)
        product.add_to_keys(w, lanes, x, target, keys, columns, queries, add)

    return scores, add_to_queries, add_to_keys


ZERO = np.float32(0)
SIZES = {
    "queries": st.integers(1, 50),
    "keys": st.integers(1, 70),
    "columns": st.integers(1, 140),
    "more": st.integers(0, 5),
    "seed": st.integers(0, 100),
}


@pytest.mark.parametrize("path", KINDS)
@given(**SIZES, split=st.integers(0, 70))
def test_scores(path, queries, keys, columns, more, seed, split):
    rng = np.random.default_rng(seed)
    q, k = Tile(rng, queries, columns, more), Tile(rng, keys, columns, more)
    lanes = padded(queries, VECTOR)
    packed, k_room = scratch(padded(columns, 32), lanes), room_for(keys, columns)
    s = scratch(padded(keys, 32), lanes)
    run = compiled_steps(path)[0]
    sizes = queries, keys, columns, lanes, min(split, keys)
    addresses = packed.ctypes.data, k_room.ctypes.data, s.ctypes.data
    at = run(ZERO, *q.place, *k.place, sizes, *addresses)
    assert (at == k.place[0]) == (columns % 2 == 0)  # read in place, whatever its alignment
    expected = np.zeros((keys, lanes))
    expected[:, :queries] = k.numbers @ q.numbers.T
    assert_close(s[:keys], expected, 2e-6 * columns)
    assert np.isnan(s[keys:]).all()


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("turned", [False, True])
@given(**SIZES, add=st.booleans())
def test_add_to_queries(path, turned, queries, keys, columns, more, seed, add):
    rng = np.random.default_rng(seed)
    v = Tile(rng, keys, columns, more)
    lanes = padded(queries, VECTOR)
    p = scratch(padded(keys, 32), lanes)
    p[:keys] = rng.standard_normal((keys, lanes))
    p[:keys, queries:] = np.nan  # lanes without a query
    weights = rounded(p[:keys, :queries])
    sums = scratch(queries + 1, columns)
    if add:
        sums[:queries] = rng.standard_normal((queries, columns))
    expected = (sums[:queries] if add else 0) + weights.T @ v.numbers
    room, turns = room_for(keys, columns), room_for(keys, columns)
    sizes = queries, keys, columns, lanes
    run = compiled_steps(path)[1]
    turns_at = turns.ctypes.data if turned else 0
    assert (
        run(ZERO, p.ctypes.data, *v.place, sizes, room.ctypes.data, sums.ctypes.data, turns_at, add)
        == columns
    )
    assert_close(sums[:queries], expected, 2e-6 * (keys + 1))
    assert np.isnan(sums[queries:]).all()


@pytest.mark.parametrize("path", KINDS)
@given(**SIZES, add=st.booleans(), in_place=st.booleans())
def test_add_to_keys(path, queries, keys, columns, more, seed, add, in_place):
    rng = np.random.default_rng(seed)
    do = Tile(rng, queries, columns, more)
    lanes = padded(queries, VECTOR)
    p = scratch(padded(keys, 32), lanes)
    p[:keys] = rng.standard_normal((keys, lanes))
    p[:keys, queries:] = np.nan
    weights = rounded(p[:keys, :queries])
    frame = scratch(keys + 1, columns + more)
    if add:
        frame[:keys, :columns] = rng.standard_normal((keys, columns))
    expected = (frame[:keys, :columns] if add else 0) + weights @ do.numbers
    room, other = room_for(lanes, columns), scratch(padded(keys, 32), lanes)
    rooms = room.ctypes.data, (p if in_place else other).ctypes.data
    sizes = queries, keys, columns, lanes
    run = compiled_steps(path)[2]
    run(ZERO, p.ctypes.data, *do.place, sizes, rooms, frame.ctypes.data, columns + more, add)
    assert_close(frame[:keys, :columns], expected, 2e-6 * (queries + 1))
    assert np.isnan(frame[keys:]).all()
    assert np.isnan(frame[:, columns:]).all()


@needs_dot_bf16
def test_the_instruction_takes_denormals_for_zero_and_the_emulation_does_not():
    tile = Tile(np.random.default_rng(0), 1, 2, 0)
    tile.rows[:] = 1, 0  # the smallest denormal, 2**-133
    large = Tile(np.random.default_rng(0), 1, 2, 0)
    large.rows[:] = BFLOAT16.make(np.array([2.0**100, 0]))
    results = []
    for path in ("dot_bf16", "dot_bf16-emulated"):
        packed, room, s = scratch(32, VECTOR), room_for(1, 2), scratch(32, VECTOR)
        addresses = packed.ctypes.data, room.ctypes.data, s.ctypes.data
        compiled_steps(path)[0](ZERO, *tile.place, *large.place, (1, 1, 2, VECTOR, 0), *addresses)
        results.append(s[0, 0])
    assert results == [0.0, 2.0**-33]


def test_the_path_is_chosen_where_the_instruction_is_fast():
    names = [name for name, path in PATHS.items() if not path.by_name_only]
    assert ("dot_bf16" in names) == FAST_DOTS
    assert "dot_bf16-emulated" not in names
    # Only a faster path may come before it.
    assert names.index(path_of("bfloat16").product.name) <= names.index(
        "dot_bf16" if FAST_DOTS else "convert"
    )
