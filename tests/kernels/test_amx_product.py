"""The steps of the products on tile registers against NumPy in float64, with guards and NaN around tiles."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.amx import FLOAT16_KINDS, KINDS, SPLIT_KINDS
from helpers.tiles import NAN, assert_guards_are_whole, guarded, padded, tile_inside_nan
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.elements import element_types
from flashbench.codegen.pointers import pointer
from flashbench.dtypes import DTYPES
from flashbench.kernels.products import Matrix, Sums
from flashbench.kernels.products.paths import PATHS

KINDS = [*KINDS, *FLOAT16_KINDS, *SPLIT_KINDS]
ZERO = np.float32(0)


def dtype_of(kind):
    return PATHS[kind].dtypes[0]


@functools.cache
def compiled_steps(kind):
    """The steps of a product, as functions of addresses that Python can call."""
    product = PATHS[kind].product
    half, _ = element_types(dtype_of(kind))

    @njit
    def scores(zero, k, k_row, keys, q, q_row, queries, depth, room, packed, s, lanes):
        state = product.begin()
        product.pack(Matrix(pointer(half, q), q_row), queries, depth, pointer(zero, packed), lanes, zero)
        k_tile = product.keys(Matrix(pointer(half, k), k_row), keys, depth, pointer(zero, room))
        product.scores(pointer(zero, s), k_tile, pointer(zero, packed), lanes, keys, depth)
        product.end(state)

    @njit
    def add_to_queries(zero, p, w_room, lanes, queries, v, v_row, keys, columns, room, sums, add, turned):
        state = product.begin()
        x = Matrix(pointer(half, v), v_row)
        w = product.weights(pointer(zero, p), lanes, keys, pointer(zero, w_room))
        v_tile = product.values(x, keys, columns, pointer(zero, room))
        if turned:  # from the operand of `scores`, as backward does; its copy stands behind the result
            copy = pointer(zero, turned)
            v_tile = product.turned(product.keys(x, keys, columns, copy), keys, columns, pointer(zero, room))
        total = product.sums(pointer(zero, sums), lanes, columns)
        product.add_to_queries(w, lanes, v_tile, total, queries, columns, keys, add)
        product.end(state)

    @njit
    def finish(zero, target, target_row, sums, lanes, queries, columns, factors):
        rows = Matrix(pointer(half, target), target_row)
        total = product.sums(pointer(zero, sums), lanes, columns)
        product.scale(total, queries, columns, pointer(zero, factors))
        product.put(rows, total, queries, columns, pointer(zero, factors))

    @njit
    def add_to_keys(zero, p, lanes, queries, x, x_row, keys, columns, room, weights, sums, sums_row, add):
        state = product.begin()
        tile = product.queries(Matrix(pointer(half, x), x_row), queries, columns, pointer(zero, room))
        w = product.key_weights(pointer(zero, p), lanes, keys, pointer(zero, weights))
        total = Matrix(pointer(zero, sums), sums_row)
        product.add_to_keys(w, lanes, tile, total, keys, columns, queries, add)
        product.end(state)

    return SimpleNamespace(
        scores=scores, add_to_queries=add_to_queries, finish=finish, add_to_keys=add_to_keys
    )


@st.composite
def sizes(draw, columns=256, keys=96):
    """keys, queries, lanes, columns, and how the tile of rows lies in memory."""
    queries = draw(st.integers(1, 128))
    lanes = padded(queries, 16)
    many = st.one_of(st.sampled_from([32, 64, columns]), st.integers(1, columns))
    some = st.one_of(st.sampled_from([16, 32, 64]), st.integers(1, keys))
    gap, start = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return draw(some), queries, lanes, draw(many), (gap, start), rng


def random_tile(kind, rng, rows, columns, gap, start):
    x = tile_inside_nan(rows, columns, gap, start, patterns_of(kind))
    x[:] = stored(kind, rng.standard_normal(x.shape))
    return x


def patterns_of(kind):
    """The unsigned integers of the kind's storage."""
    return np.uint32 if dtype_of(kind) == "float32" else np.uint16


def parts_of(kind):
    """bfloat16 numbers of an operand's number."""
    return PATHS[kind].product.parts


def stored(kind, x):
    """Patterns of numbers in the kind's dtype."""
    return DTYPES[dtype_of(kind)].make(x).view(patterns_of(kind))


def of(x):
    """Address and stride in numbers, as steps take a tile of rows."""
    return x.ctypes.data, x.strides[0] // x.itemsize


def wide(kind, x):
    dtype = DTYPES[dtype_of(kind)]
    return dtype.view(x.view(dtype.storage)).astype("float64")


def weights_of(kind, p):
    """p as the product reads it: rounded to bfloat16. For others, `of_weights` allows for the rounding."""
    return wide(kind, stored(kind, p)) if dtype_of(kind) == "bfloat16" else p.astype("float64")


def assert_sum(actual, expected, size, relative=64 * 2.0**-24):
    """Within the rounding of float32 sums of terms whose sizes add to `size`."""
    assert np.all(np.abs(actual - expected) <= relative * size + 1e-37)


def of_weights(kind):
    """How far a sum of weighted rows may be from the exact one: float16 leaves out the products l l."""
    left_out = {"bfloat16": 0, "float16": 2.0**-14 + 2.0**-15, "float32": 2.0**-22}
    return 64 * 2.0**-24 + left_out[dtype_of(kind)]


def room_of(kind, rows, columns):
    return guarded(padded(rows, 32) * padded(columns, 32) * max(2, parts_of(kind)) // 2, np.float32)


def room_of_weights(kind, keys, lanes):
    return guarded(padded(keys, 32) * lanes * parts_of(kind) // 2, np.float32)


def garbage(x):
    """Memory as an earlier tile may have left it."""
    x.view(np.uint16)[:] = NAN


@pytest.mark.parametrize("kind", KINDS)
@given(case=sizes())
def test_scores_are_rows_of_keys_times_queries(kind, case):
    keys, queries, lanes, depth, place, rng = case
    k, q = random_tile(kind, rng, keys, depth, *place), random_tile(kind, rng, queries, depth, *place)
    rooms = [
        room_of(kind, keys, depth),
        room_of(kind, lanes, depth),
        guarded(padded(keys, 32) * lanes, np.float32),
    ]
    (_, room), (_, packed), (_, s) = rooms
    for _, inner in rooms:
        garbage(inner)
    addresses = room.ctypes.data, packed.ctypes.data, s.ctypes.data
    compiled_steps(kind).scores(ZERO, *of(k), keys, *of(q), queries, depth, *addresses, lanes)
    s = s.reshape(-1, lanes)[:keys]
    assert_sum(
        s[:, :queries], wide(kind, k) @ wide(kind, q).T, np.abs(wide(kind, k)) @ np.abs(wide(kind, q)).T
    )
    assert not s[:, queries:].any()  # lanes without a query
    for room in rooms:
        assert_guards_are_whole(*room)


@pytest.mark.parametrize("kind", KINDS)
@given(case=sizes(), turned=st.booleans())
def test_sums_of_queries_add_weighted_rows_of_keys(kind, case, turned):
    keys, queries, lanes, columns, place, rng = case
    v = random_tile(kind, rng, keys, columns, *place)
    rooms = [
        guarded(padded(keys, 32) * lanes, np.float32),
        room_of(kind, keys, columns),
        room_of(kind, columns, lanes),
        room_of(kind, keys, columns),
        room_of_weights(kind, keys, lanes),
    ]
    (_, p), (_, room), (_, sums), (_, copy), (_, weights_room) = rooms
    steps = compiled_steps(kind)
    expected, size = np.zeros((queries, columns)), np.zeros((queries, columns))
    for _, inner in rooms:
        garbage(inner)
    for add in (False, True):
        garbage(p)
        weights = rng.standard_normal((keys, lanes)).astype("float32")
        weights[:, queries:] = np.nan  # a lane without a query is nobody's
        p[: keys * lanes] = weights.ravel()
        steps.add_to_queries(
            ZERO, p.ctypes.data, weights_room.ctypes.data, lanes, queries, *of(v), keys, columns,
            room.ctypes.data, sums.ctypes.data, add, copy.ctypes.data if turned else 0,
        )  # fmt: skip
        rounded = weights_of(kind, weights[:, :queries]).T
        expected += rounded @ wide(kind, v)
        size += np.abs(rounded) @ np.abs(wide(kind, v))
    assert_sum(
        sums[: columns * lanes].reshape(columns, lanes)[:, :queries].T, expected, size, of_weights(kind)
    )
    for room in rooms:
        assert_guards_are_whole(*room)


@pytest.mark.parametrize("kind", KINDS)
@given(case=sizes(), gap=st.integers(0, 20))
def test_sums_are_scaled_by_query_and_put_in_rows(kind, case, gap):
    _, queries, lanes, columns, _, rng = case
    whole_sums, sums = room_of(kind, columns, lanes)
    garbage(sums)
    numbers = rng.standard_normal((columns, lanes)).astype("float32")
    sums[: columns * lanes] = numbers.ravel()
    factors = np.full(lanes, np.nan, "float32")
    factors[:queries] = rng.standard_normal(queries)
    row = columns + gap
    whole, target = guarded(queries * row, patterns_of(kind))
    garbage(target)
    before = target[0]
    compiled_steps(kind).finish(
        ZERO, target.ctypes.data, row, sums.ctypes.data, lanes, queries, columns, factors.ctypes.data
    )
    of_queries = factors[:queries, np.newaxis]
    expected = stored(kind, numbers.T[:queries] * of_queries * of_queries)
    target = target.reshape(queries, row)
    np.testing.assert_array_equal(target[:, :columns], expected)
    assert (target[:, columns:] == before).all()
    assert_guards_are_whole(whole, target)
    assert_guards_are_whole(whole_sums, sums)


@pytest.mark.parametrize("kind", KINDS)
@given(case=sizes(), gap=st.integers(0, 20), in_place=st.booleans())
def test_sums_of_keys_add_weighted_rows_of_queries(kind, case, gap, in_place):
    keys, queries, lanes, columns, place, rng = case
    in_place = in_place and parts_of(kind) == 1
    x = random_tile(kind, rng, queries, columns, *place)
    row = columns + gap
    rooms = [
        guarded(padded(keys, 32) * lanes, np.float32),
        room_of(kind, keys, lanes),
        room_of(kind, lanes, columns),
        guarded(keys * row, np.float32),
    ]
    (_, p), (_, weights), (_, room), (_, sums) = rooms
    for _, inner in rooms:
        garbage(inner)
    between = sums.view(np.uint32).reshape(keys, row)[:, columns:].copy()
    expected, size = np.zeros((keys, columns)), np.zeros((keys, columns))
    for add in (False, True):
        given_p = rng.standard_normal((keys, lanes)).astype("float32")
        given_p[:, queries:] = np.nan  # k or v has a NaN: it must not reach the sums of its key this way
        p[: keys * lanes] = given_p.ravel()
        compiled_steps(kind).add_to_keys(
            ZERO, p.ctypes.data, lanes, queries, *of(x), keys, columns, room.ctypes.data,
            (p if in_place else weights).ctypes.data, sums.ctypes.data, row, add,
        )  # fmt: skip
        rounded = weights_of(kind, given_p[:, :queries])
        expected += rounded @ wide(kind, x)
        size += np.abs(rounded) @ np.abs(wide(kind, x))
    rows = sums.reshape(keys, row)
    assert_sum(rows[:, :columns], expected, size, of_weights(kind))
    np.testing.assert_array_equal(sums.view(np.uint32).reshape(keys, row)[:, columns:], between)
    for room in rooms:
        assert_guards_are_whole(*room)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_queries_lie_where_the_product_says(kind):
    # NaN containment adds to them one by one.
    product = PATHS[kind].product
    total = njit(lambda zero: product.sums(zero, 48, 7))(0)
    assert total == Sums(0, 1, 48)
