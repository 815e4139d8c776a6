"""Feature steps on a tile: tanh against NumPy in extended precision, dropout against Philox in NumPy."""

import numpy as np
import pytest
from numba import njit

from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import pointer
from flashbench.kernels.tile.dropout import Draws, drop
from flashbench.kernels.tile.scores import cap_scores
from flashbench.philox import philox_words
from flashbench.tolerances import UNIT_ROUNDOFF


@njit
def run_cap(zero, scores, count, cap, slopes):
    cap_scores(pointer(zero, scores), count, cap, pointer(zero, slopes))


def tanh(values, dtype):
    """tanh and its derivative by the kernels."""
    lanes = ISA.lanes(np.dtype(dtype).itemsize)
    padded = np.zeros(-(-len(values) // lanes) * lanes, dtype)
    padded[: len(values)] = values
    slopes = np.zeros_like(padded)
    run_cap(padded.dtype.type(0), padded.ctypes.data, len(padded), 1.0, slopes.ctypes.data)
    return padded[: len(values)], slopes[: len(values)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("most", [1e-3, 0.25, 0.5, 3.0, 30.0])
def test_tanh_is_right_to_five_roundings(dtype, most):
    x = np.concatenate([np.linspace(-most, most, 20_001), np.geomspace(most * 1e-9, most, 1001)]).astype(
        dtype
    )
    expected = np.tanh(x.astype(np.longdouble))
    found, slopes = tanh(x, dtype)
    unit = UNIT_ROUNDOFF[dtype]
    assert np.max(np.abs(found - expected)[x != 0] / np.abs(expected[x != 0])) <= 5 * unit
    assert np.max(np.abs(slopes - (1 - expected**2))) <= 8 * unit


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tanh_at_the_edges(dtype):
    found, _ = tanh(np.array([0.0, np.inf, -np.inf, np.nan, 1e30, -1e30]), dtype)
    np.testing.assert_array_equal(found, [0.0, 1.0, -1.0, np.nan, 1.0, -1.0])


@njit
def run_drop(zero, tile, keys, lanes, first_key, first_query, head, sequence, seed, threshold):
    drop(pointer(zero, tile), keys, lanes, Draws(first_key, first_query, head, sequence, seed, threshold))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("first_key", "keys"), [(0, 8), (0, 1), (3, 9), (5, 2), (2**31, 7)])
def test_dropped_pairs_are_philox_s(dtype, first_key, keys):
    lanes = 2 * ISA.lanes(np.dtype(dtype).itemsize)
    seed, threshold, first_query, head, sequence = 2**40 + 7, 2**31, 1000, 3, 2
    tile = np.ones((keys, lanes), dtype)
    run_drop(
        tile.dtype.type(0),
        tile.ctypes.data,
        keys,
        lanes,
        first_key,
        first_query,
        head,
        sequence,
        seed,
        threshold,
    )
    columns = first_key + np.arange(keys)
    counter = columns[:, np.newaxis] // 4, first_query + np.arange(lanes), np.array(head), np.array(sequence)
    words = np.stack(philox_words(counter, (seed & 0xFFFFFFFF, seed >> 32)))
    expected = np.take_along_axis(words, columns[np.newaxis, :, np.newaxis] % 4, axis=0)[0] >= threshold
    np.testing.assert_array_equal(tile, expected.astype(dtype))
