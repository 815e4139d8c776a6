"""Operands made of pairs of bfloat16 against NumPy and ml_dtypes, with guards around what is written."""

import numpy as np
import pytest
from helpers.tiles import assert_guards_are_whole, guarded, padded, tiles
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.isa import HAS_BFLOAT16, ISA
from flashbench.codegen.pointers import address_in, pointer
from flashbench.kernels.products import Matrix, pairs, weights
from flashbench.kernels.products.words import halves

ml_dtypes = pytest.importorskip("ml_dtypes")

VECTOR = ISA.lanes(4)
rounded_weights = weights.weights_of(weights.ROUNDED)


def pairs_of(even, odd):
    return even.astype(np.uint32) | odd.astype(np.uint32) << 16


def zero_padded(x, rows, columns):
    result = np.zeros((rows, columns), x.dtype)
    result[: x.shape[0], : x.shape[1]] = x
    return result


@njit
def run_pack_pairs(zero, x, row, rows, columns, packed, lanes):
    pairs.pack_pairs(
        Matrix(halves(pointer(zero, x)), row), rows, columns, pointer(zero, packed), lanes, lanes
    )


@given(x=tiles(), more=st.integers(0, 2))
def test_pack_pairs_puts_neighbours_of_a_column_in_a_word(x, more):
    rows, columns = x.shape
    lanes = padded(rows, VECTOR) + more * VECTOR
    whole, packed = guarded(padded(columns, 32) // 2 * lanes, np.uint32)
    run_pack_pairs(np.float32(0), x.ctypes.data, x.strides[0] // 2, rows, columns, packed.ctypes.data, lanes)
    expected = zero_padded(x, lanes, padded(columns, 32)).T
    np.testing.assert_array_equal(packed.reshape(-1, lanes), pairs_of(expected[::2], expected[1::2]))
    assert_guards_are_whole(whole, packed)


@njit
def run_pair_rows(zero, x, row, rows, columns, room):
    made = pairs.pair_rows(Matrix(halves(pointer(zero, x)), row), rows, columns, pointer(zero, room))
    return address_in(made.at), made.row


@given(x=tiles())
def test_pair_rows_puts_neighbours_of_a_row_in_a_word(x):
    rows, columns = x.shape
    whole, room = guarded(padded(rows, 32) // 2 * padded(columns, 32), np.uint32)
    made = run_pair_rows(np.float32(0), x.ctypes.data, x.strides[0] // 2, rows, columns, room.ctypes.data)
    assert made == (room.ctypes.data, 2 * padded(columns, 32))
    expected = zero_padded(x, padded(rows, 32), padded(columns, 32))
    words = room.reshape(-1, padded(columns, 32))
    np.testing.assert_array_equal(words, pairs_of(expected[::2], expected[1::2]))
    assert_guards_are_whole(whole, room)


@njit
def run_padded_rows(zero, x, row, rows, columns, room, width):
    x = Matrix(halves(pointer(zero, x)), row)
    made = pairs.padded_rows(x, rows, columns, pointer(zero, room), width)
    return address_in(made.at), made.row


@given(x=tiles(), more=st.integers(0, 40))
def test_padded_rows_end_in_zeros(x, more):
    rows, columns = x.shape
    width = columns + more
    whole, room = guarded(rows * width, np.uint16)
    made = run_padded_rows(
        np.float32(0), x.ctypes.data, x.strides[0] // 2, rows, columns, room.ctypes.data, width
    )
    assert made == (room.ctypes.data, width)
    np.testing.assert_array_equal(room.reshape(rows, width), zero_padded(x, rows, width))
    assert_guards_are_whole(whole, room)


def bfloat16(x):
    """The patterns by ml_dtypes. Where the CPU's instruction rounds, denormal numbers are zero."""
    x = x.copy()
    if HAS_BFLOAT16:
        x[np.abs(x) < np.finfo(np.float32).smallest_normal] *= 0
    with np.errstate(invalid="ignore"):  # signalling NaN
        return x.astype(ml_dtypes.bfloat16)


def assert_same_numbers(patterns, expected):
    """The same bits, but for the payloads of NaN."""
    actual = patterns.view(ml_dtypes.bfloat16)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(patterns[~nan], expected.view(np.uint16)[~nan])


def probabilities(rows, lanes, seed):
    """Any float32: numbers of every size, ties between two bfloat16, infinities and NaN."""
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 2**32, (rows, lanes), np.uint32)
    p[rng.random(p.shape) < 0.3] &= 0xFFFF8000
    p[rng.random(p.shape) < 0.1] &= 0x807FFFFF  # denormal
    return p.view(np.float32)


ROWS, VECTORS, SEED = st.integers(1, 100), st.integers(1, 5), st.integers(0, 1000)


@njit
def run_weights(zero, p, lanes, rows):
    return address_in(rounded_weights(pointer(zero, p), lanes, rows, pointer(zero, p)))


@given(rows=ROWS, vectors=VECTORS, seed=SEED)
def test_weights_are_pairs_of_keys_in_place(rows, vectors, seed):
    lanes = VECTOR * vectors
    given_p = probabilities(rows, lanes, seed)
    whole, p = guarded(padded(rows, 32) * lanes, np.float32)
    p[: rows * lanes] = given_p.ravel()
    assert run_weights(np.float32(0), p.ctypes.data, lanes, rows) == p.ctypes.data
    words = p.view(np.uint16)[: padded(rows, 32) * lanes].reshape(-1, lanes, 2)  # [pair of keys, lane, half]
    expected = bfloat16(zero_padded(given_p, padded(rows, 32), lanes)).reshape(-1, 2, lanes)
    assert_same_numbers(np.ascontiguousarray(words.swapaxes(1, 2)), expected)
    assert_guards_are_whole(whole, p)


@njit
def run_key_weights(zero, p, lanes, rows, room, first):
    made = weights.key_weights(pointer(zero, p), lanes, rows, pointer(zero, room))
    weights.clear_lanes(made, lanes, first, rows)
    return address_in(made)


@given(rows=ROWS, vectors=VECTORS, seed=SEED, in_place=st.booleans(), missing=st.integers(0, 3))
def test_key_weights_are_rows_of_queries(rows, vectors, seed, in_place, missing):
    lanes = VECTOR * vectors
    given_p = probabilities(rows, lanes, seed)
    whole, p = guarded(rows * lanes, np.float32)
    p[: rows * lanes] = given_p.ravel()
    whole_room, room = (whole, p) if in_place else guarded(rows * lanes // 2, np.float32)
    first = lanes - missing
    made = run_key_weights(np.float32(0), p.ctypes.data, lanes, rows, room.ctypes.data, first)
    assert made == room.ctypes.data
    expected = bfloat16(given_p)
    expected[:, first:] = 0
    assert_same_numbers(room.view(np.uint16)[: expected.size].reshape(expected.shape), expected)
    if not in_place:
        np.testing.assert_array_equal(p[: rows * lanes].view(np.uint32), given_p.ravel().view(np.uint32))
    assert_guards_are_whole(whole, p)
    assert_guards_are_whole(whole_room, room)
