"""Weights of both gradients from scores, in one pass, against NumPy in float64."""

import numpy as np
import pytest
from helpers.tiles import assert_guards_are_whole, guarded, padded
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.pointers import pointer
from flashbench.dtypes import DTYPES
from flashbench.kernels.products.gradient_weights import put_gradient_weights

BFLOAT16 = DTYPES["bfloat16"]
ROUNDOFF = BFLOAT16.unit_roundoff


@njit
def run(zero, s, dp, lse2, delta, lanes, rows, factor, p_rows, ds_rows, width):
    tiles, of_lanes = (pointer(zero, s), pointer(zero, dp)), (pointer(zero, lse2), pointer(zero, delta))
    rooms = pointer(zero, p_rows), pointer(zero, ds_rows)
    put_gradient_weights(tiles, of_lanes, lanes, rows, factor, rooms, width)


def weights(s, dp, lse2, delta, factor, more):
    """(rows of p, rows of ds, words of ds as [key, lane]), as numbers. more: numbers between two rows."""
    rows, lanes = s.shape
    width, zero = lanes + more, np.float32(0)
    rooms = [guarded(padded(rows, 32) * lanes, np.float32) for _ in range(2)]
    rooms += [guarded(rows * width, np.uint16) for _ in range(2)]
    (_, s_tile), (_, dp_tile), (_, p_rows), (_, ds_rows) = rooms
    s_tile[: s.size], dp_tile[: s.size] = s.ravel(), dp.ravel()
    of_tiles = [x.ctypes.data for x in (s_tile, dp_tile, lse2, delta)]
    run(zero, *of_tiles, lanes, rows, np.float32(factor), p_rows.ctypes.data, ds_rows.ctypes.data, width)
    for whole, inner in rooms:
        assert_guards_are_whole(whole, inner)
    whole_pairs = dp_tile.view(np.uint16)[: padded(rows, 32) * lanes]
    words = whole_pairs.reshape(-1, lanes, 2).swapaxes(1, 2).reshape(-1, lanes)
    assert not words[rows:].any()
    of_rows = [x.reshape(rows, width)[:, :lanes] for x in (p_rows, ds_rows)]
    return [BFLOAT16.view(np.ascontiguousarray(x)) for x in (*of_rows, words[:rows])]


@given(
    rows=st.integers(1, 70),
    vectors=st.integers(1, 6),
    more=st.sampled_from([0, 16]),
    seed=st.integers(0, 999),
)
def test_weights_are_rounded_p_and_ds(rows, vectors, more, seed):
    rng = np.random.default_rng(seed)
    lanes, factor = 16 * vectors, 0.3
    s, dp = (rng.standard_normal((rows, lanes)).astype("float32") for _ in range(2))
    lse2, delta = (rng.standard_normal(lanes).astype("float32") for _ in range(2))
    lse2[rng.random(lanes) < 0.1] = np.inf  # a lane without a query
    p, ds, words = weights(s, dp, lse2, delta, factor, more)
    exact_p = np.exp2(factor * s.astype("float64") - lse2)
    exact_ds = exact_p * (dp.astype("float64") - delta)
    # exp2 and the difference are rounded too, to far more than 16 bits.
    assert np.all(np.abs(p - exact_p) <= 1.01 * ROUNDOFF * exact_p)
    allowed = 1.01 * ROUNDOFF * np.abs(exact_ds) + 4e-6 * exact_p * (np.abs(dp) + np.abs(delta))
    assert np.all(np.abs(ds - exact_ds) <= allowed)
    np.testing.assert_array_equal(words, ds)


@pytest.mark.parametrize("place", ["s", "dp", "lse2", "delta"])
def test_a_nan_stays_with_its_pairs(place):
    arrays = {"s": np.zeros((5, 32), "float32"), "dp": np.zeros((5, 32), "float32")}
    arrays |= {"lse2": np.zeros(32, "float32"), "delta": np.zeros(32, "float32")}
    arrays[place][..., 7] = np.nan
    for found in weights(*arrays.values(), 1.0, 0)[1:]:
        assert np.isnan(found[:, 7]).all()
        assert np.isfinite(np.delete(found, 7, 1)).all()
