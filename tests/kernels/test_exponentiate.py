"""Weights of exact products, made from scores under a guess of row_max, against NumPy in float64."""

import numpy as np
import pytest
from helpers.tiles import assert_guards_are_whole, guarded, padded
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.denormals import begin_flushing, end_flushing
from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import pointer
from flashbench.dtypes import DTYPES
from flashbench.kernels.maths.exp2 import MOST_ABOVE
from flashbench.kernels.products.exponentiate import exponentiate_by
from flashbench.kernels.products.weights import IN_HALVES, IN_THIRDS, ROUNDED

VECTOR = ISA.lanes(4)
BFLOAT16 = DTYPES["bfloat16"]
LARGEST_ERROR = 3.5e-6  # of exp2 where its result is rounded to 16 bits


def runner(step):
    @njit
    def run(zero, s, rows, lanes, row_max, row_sum, new_sum, factor, target):
        lane_state = pointer(zero, row_max), pointer(zero, row_sum), pointer(zero, new_sum)
        mode = begin_flushing()
        beyond = step(pointer(zero, s), rows, lanes, lane_state, factor, pointer(zero, target))
        end_flushing(mode)
        return beyond

    return run


RUN = {words.lines: runner(exponentiate_by(words)) for words in (ROUNDED, IN_HALVES, IN_THIRDS)}


def made(s, row_max, row_sum, factor=1.0, parts=1):
    """(whether row_max is too small, p as [key, lane], new row sums, p of the keys that pad the tile)."""
    rows, lanes = s.shape
    whole, target = guarded(padded(rows, 32) * lanes * parts // 2, np.float32)
    new_sum = np.zeros(lanes, np.float32)
    arrays = (row_max.ctypes.data, row_sum.ctypes.data, new_sum.ctypes.data)
    beyond = RUN[parts](
        np.float32(0), s.ctypes.data, rows, lanes, *arrays, np.float32(factor), target.ctypes.data
    )
    assert_guards_are_whole(whole, target)
    words = target.view(np.uint16).reshape(-1, parts, lanes, 2)  # [pair of keys, part, lane, key of the pair]
    numbers = BFLOAT16.view(np.ascontiguousarray(words)).astype("float64").sum(axis=1)
    p = numbers.swapaxes(1, 2).reshape(-1, lanes)
    return beyond, p[:rows], new_sum, p[rows:]


def tile(rows, vectors, seed):
    rng = np.random.default_rng(seed)
    lanes = VECTOR * vectors
    s = (3 * rng.standard_normal((rows, lanes))).astype("float32")
    s[rng.random(s.shape) < 0.1] = -np.inf
    return rng, s


@given(
    rows=st.integers(1, 70),
    vectors=st.integers(1, 7),
    parts=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 999),
)
def test_weights_and_row_sums_are_right(rows, vectors, parts, seed):
    rng, s = tile(rows, vectors, seed)
    factor = float(np.float32(0.7))
    row_max = (s.max(axis=0, initial=-9) * np.float32(factor)).astype("float32")
    row_sum = rng.random(s.shape[1]).astype("float32")
    beyond, p, new_sum, padding = made(s, row_max, row_sum, factor, parts)
    exact = np.exp2(factor * s.astype("float64") - row_max)
    assert not beyond
    # Of two parts, the first is cut off, so that the second may be 2^-7 of the number. Three keep all bits:
    # then the rounding of the exponent shows.
    roundoff = {1: 2.0**-8, 2: 2.0**-15, 3: 0}[parts]
    exponents = factor * np.where(np.isfinite(s), s, 0).astype("float64") - row_max
    largest = LARGEST_ERROR if parts < 3 else (2 + np.abs(exponents).max()) * 2.0**-23
    assert np.all(np.abs(p - exact) <= (roundoff + largest) * exact + 2.0**-140)
    total = row_sum + exact.sum(axis=0)
    np.testing.assert_allclose(new_sum, total, rtol=largest + rows * 2.0**-24)
    assert not padding.any()


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(
    ("row_max", "score", "beyond"),
    [
        (1.0, 1.0 + MOST_ABOVE, False),
        (1.0, 1.5 + MOST_ABOVE, True),
        (-np.inf, -np.inf, False),
        (-np.inf, -50.0, True),  # the first visible key of a lane
        (1.0, np.nan, False),  # a NaN is in the sums, and raises no maximum
        (1.0, np.inf, True),
    ],
)
@pytest.mark.parametrize(("lane", "row"), [(0, 0), (5 * VECTOR - 1, 4), (6 * VECTOR - 1, 2)])
def test_a_row_max_that_is_too_small_shows(parts, row_max, score, beyond, lane, row):
    s = np.full((5, 7 * VECTOR), -3.0, np.float32)
    maxima, sums = np.zeros(s.shape[1], np.float32), np.zeros(s.shape[1], np.float32)
    s[:, lane], maxima[lane] = -np.inf, row_max
    s[row, lane] = score
    assert made(s, maxima, sums, parts=parts)[0] is beyond


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_nan_stays_in_its_lane(parts):
    _, s = tile(6, 3, 0)
    s[4, 7] = np.nan
    _, p, new_sum, _ = made(
        s, np.full(s.shape[1], 9, np.float32), np.zeros(s.shape[1], np.float32), 1.0, parts
    )
    assert np.isnan(p[4, 7])
    assert np.isnan(new_sum[7])
    assert np.isnan(p).sum() == 1
    assert np.isnan(new_sum).sum() == 1


@pytest.mark.parametrize("x", [0.0, -1.0, -2.0, -37.0, -100.0])
def test_powers_of_two_are_exact(x):
    """So lse of a row with one large score is exact, and a sum of equal weights too."""
    s = np.full((1, VECTOR), x, np.float32)
    _, p, new_sum, _ = made(s, np.zeros(VECTOR, np.float32), np.zeros(VECTOR, np.float32))
    assert np.all(p == 2.0**x)
    np.testing.assert_allclose(new_sum, 2.0**x, rtol=0 if ISA.name == "avx512" else LARGEST_ERROR)


@pytest.mark.parametrize("x", [-150.0, -1e4, -1e30, -np.finfo(np.float32).max, -np.inf])
def test_what_counts_for_nothing_is_exactly_zero(x):
    s = np.full((2, VECTOR), x, np.float32)
    _, p, new_sum, _ = made(s, np.zeros(VECTOR, np.float32), np.zeros(VECTOR, np.float32))
    assert not p.any()
    assert not new_sum.any()
