"""Weights of both gradients from scores, in one pass, against NumPy in float64."""

import numpy as np
import pytest
from helpers.tiles import assert_guards_are_whole, guarded, padded
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.pointers import pointer
from flashbench.dtypes import DTYPES
from flashbench.kernels.products.gradient_weights import gradient_weights_by
from flashbench.kernels.products.weights import IN_HALVES, IN_THIRDS, ROUNDED

BFLOAT16 = DTYPES["bfloat16"]
KINDS = {kind.name: kind for kind in (ROUNDED, IN_HALVES, IN_THIRDS)}
# By kind: what the exponential and rounding add to p at most.
ROUNDOFF = {"rounded": 1.01 * BFLOAT16.unit_roundoff, "halves": 2.0**-15 + 4e-6, "thirds": 2.0**-22}
OF_EXP2 = {"rounded": 4e-6, "halves": 4e-6, "thirds": 5e-7}  # the exponential alone


def runner(kind):
    put = gradient_weights_by(kind)

    @njit
    def run(zero, s, dp, lse2, delta, lanes, rows, factor, p_rows, ds_rows, ds_words, width):
        tiles, of_lanes = (pointer(zero, s), pointer(zero, dp)), (pointer(zero, lse2), pointer(zero, delta))
        rooms = pointer(zero, p_rows), pointer(zero, ds_rows), pointer(zero, ds_words)
        put(tiles, of_lanes, lanes, rows, factor, rooms, width)

    return run


RUN = {name: runner(kind) for name, kind in KINDS.items()}


def weights(kind, s, dp, lse2, delta, factor, more):
    """(rows of p, rows of ds, words of ds as [key, lane]), as numbers: sums of their parts.

    more: numbers between two rows.
    """
    rows, lanes = s.shape
    parts, width, zero = KINDS[kind].lines, lanes + more, np.float32(0)
    rooms = [guarded(padded(rows, 32) * lanes, np.float32) for _ in range(2)]
    rooms += [guarded(rows * parts * width, np.uint16) for _ in range(2)]
    (_, s_tile), (_, dp_tile), (_, p_rows), (_, ds_rows) = rooms
    ds_words = dp_tile
    if parts == 3:  # two lines have room in dp
        rooms.append(guarded(padded(rows, 32) * lanes * parts // 2, np.float32))
        ds_words = rooms[-1][1]
    s_tile[: s.size], dp_tile[: s.size] = s.ravel(), dp.ravel()
    of_tiles = [x.ctypes.data for x in (s_tile, dp_tile, lse2, delta)]
    of_rooms = [x.ctypes.data for x in (p_rows, ds_rows, ds_words)]
    RUN[kind](zero, *of_tiles, lanes, rows, np.float32(factor), *of_rooms, width)
    for whole, inner in rooms:
        assert_guards_are_whole(whole, inner)
    whole_pairs = ds_words.view(np.uint16)[: padded(rows, 32) * lanes * parts]
    words = whole_pairs.reshape(-1, parts, lanes, 2).transpose(1, 0, 3, 2).reshape(parts, -1, lanes)
    assert not words[:, rows:].any()
    of_rows = [x.reshape(rows, parts, width)[..., :lanes].swapaxes(0, 1) for x in (p_rows, ds_rows)]
    numbers = [BFLOAT16.view(np.ascontiguousarray(x)) for x in (*of_rows, words[:, :rows])]
    return [x.astype(np.float64).sum(0) for x in numbers]


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.integers(1, 70),
    vectors=st.integers(1, 6),
    more=st.sampled_from([0, 16]),
    seed=st.integers(0, 999),
)
def test_weights_are_p_and_ds(kind, rows, vectors, more, seed):
    rng = np.random.default_rng(seed)
    lanes, factor = 16 * vectors, 0.3
    s, dp = (rng.standard_normal((rows, lanes)).astype("float32") for _ in range(2))
    lse2, delta = (rng.standard_normal(lanes).astype("float32") for _ in range(2))
    lse2[rng.random(lanes) < 0.1] = np.inf  # a lane without a query
    p, ds, words = weights(kind, s, dp, lse2, delta, factor, more)
    exact_p = np.exp2(factor * s.astype("float64") - lse2)
    exact_ds = exact_p * (dp.astype("float64") - delta)
    # exp2, its argument and the difference are rounded too.
    argument = 2.0**-24 * (np.abs(factor * s) + np.abs(np.where(np.isinf(lse2), 0, lse2)))
    assert np.all(np.abs(p - exact_p) <= (ROUNDOFF[kind] + argument) * exact_p)
    of_difference = (OF_EXP2[kind] + argument) * exact_p * (np.abs(dp) + np.abs(delta))
    allowed = ROUNDOFF[kind] * np.abs(exact_ds) + of_difference
    assert np.all(np.abs(ds - exact_ds) <= allowed)
    np.testing.assert_array_equal(words, ds)


@pytest.mark.parametrize("kind", ["rounded", "halves"])  # a call with a NaN is not computed in thirds
@pytest.mark.parametrize("place", ["s", "dp", "lse2", "delta"])
def test_a_nan_stays_with_its_pairs(kind, place):
    arrays = {"s": np.zeros((5, 32), "float32"), "dp": np.zeros((5, 32), "float32")}
    arrays |= {"lse2": np.zeros(32, "float32"), "delta": np.zeros(32, "float32")}
    arrays[place][..., 7] = np.nan
    for found in weights(kind, *arrays.values(), 1.0, 0)[1:]:
        assert np.isnan(found[:, 7]).all()
        assert np.isfinite(np.delete(found, 7, 1)).all()
