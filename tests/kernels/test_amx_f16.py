"""float16 as sums of two bfloat16 numbers: what its layouts and results have that bfloat16's have not."""

import ml_dtypes
import numpy as np
import pytest
from helpers.amx import FLOAT16_KINDS
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.elements import FLOAT16
from flashbench.codegen.pointers import pointer
from flashbench.codegen.tiles import DEPTH
from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.parts import layouts_of
from flashbench.kernels.products.paths import PATHS
from flashbench.kernels.products.split import HALVES
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference

FLASH = FlashEngine()
ZERO = np.float32(0)
LEAST_NORMAL = 2.0**-126


LAYOUTS, PRODUCT = layouts_of(HALVES), PATHS["amx_f16-emulated"].product


@njit
def split_rows(zero, x, row, rows, columns, room):
    LAYOUTS.rows(Matrix(pointer(FLOAT16, x), row), rows, columns, pointer(zero, room), rows)


@njit
def put_weights(zero, p, lanes, rows):
    PRODUCT.weights(pointer(zero, p), lanes, rows, pointer(zero, p))


@njit
def put_key_weights(zero, p, lanes, rows, room):
    PRODUCT.key_weights(pointer(zero, p), lanes, rows, pointer(zero, room))


def numbers(patterns):
    return patterns.view(ml_dtypes.bfloat16).astype("float64")


def parts_of(x):
    """(h, l) of each number of x, (rows, DEPTH)."""
    room = np.empty((len(x), 2, DEPTH), np.uint16)
    split_rows(ZERO, x.ctypes.data, DEPTH, len(x), DEPTH, room.ctypes.data)
    return numbers(room[:, 0]), numbers(room[:, 1])


def test_every_float16_number_is_the_sum_of_its_parts():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, DEPTH)
    high, low = parts_of(x)
    exact, finite = x.astype("float64"), np.isfinite(x)
    np.testing.assert_array_equal(high + low, exact)  # infinity and NaN too
    # No part of a number is 0, denormal or of the other sign: times infinity it would be NaN, or cancel.
    parts, whole = np.stack([high, low])[:, finite], exact[finite]
    nonzero = whole != 0
    assert (np.abs(parts[:, nonzero]) >= LEAST_NORMAL).all()
    assert (np.sign(parts[:, nonzero]) == np.sign(whole[nonzero])).all()
    assert not parts[:, ~nonzero].any()
    assert (np.abs(low[finite]) <= 2.0**-7 * np.abs(whole)).all()


@st.composite
def weights(draw):
    """float32 numbers [key, lane] of any size that p and ds can have, 1 and 0 among them."""
    keys, lanes = draw(st.integers(1, 70)), 16 * draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    p = rng.standard_normal((keys, lanes)) * 2.0 ** rng.integers(-60, 12, (keys, lanes))
    p[rng.random(p.shape) < 0.1] = 0
    p[rng.random(p.shape) < 0.1] = 1
    return p.astype("float32")


def assert_sum_of_parts(high, low, p):
    assert (np.abs(high + low - p) <= 2.0**-15 * np.abs(p)).all()
    assert (np.sign(high) == np.sign(p)).all()
    assert (np.sign(low) == np.sign(p)).all()


@given(p=weights())
def test_weights_are_sums_of_parts_in_rows_of_words(p):
    keys, lanes = p.shape
    whole = -(-keys // DEPTH) * DEPTH
    room = np.full((whole, lanes), np.nan, np.float32)
    room[:keys] = p
    put_weights(ZERO, room.ctypes.data, lanes, keys)
    # [pair of keys, part, lane, key of the pair]
    parts = numbers(room.view(np.uint16)).reshape(whole // 2, 2, lanes, 2).transpose(1, 0, 3, 2)
    parts = parts.reshape(2, whole, lanes)
    assert_sum_of_parts(*parts[:, :keys], p)
    assert not parts[:, keys:].any()


@given(p=weights())
def test_key_weights_are_sums_of_parts_in_rows_of_whole_tiles(p):
    keys, lanes = p.shape
    width = -(-lanes // DEPTH) * DEPTH
    room = np.full((keys, 2, width), 0x7FC1, np.uint16)
    put_key_weights(ZERO, p.ctypes.data, lanes, keys, room.ctypes.data)
    assert_sum_of_parts(*(numbers(room[:, part, :lanes]) for part in (0, 1)), p)
    assert not room[:, :, lanes:].any()


def problem_of(seqlen, **options):
    return AttentionProblem.of(seqlen, dtype="float16", **options)


def forward(kind, problem, q, k, v, **settings):
    return FLASH.forward(problem, Settings(path=kind, **settings), q, k, v)


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_is_no_nan(kind, sign):
    # Each query sees its own key and those before it. The first has weight 1: no part of it may be 0.
    problem = problem_of(40, head_dim=16, causal=True)
    q, k, v, do = problem.make_inputs()
    v[0, 0, 0, 5] = do[0, 0, 0, 2] = sign * np.inf
    result = forward(kind, problem, q, k, v)
    np.testing.assert_array_equal(result.o[0, 0, :, 5], np.full(40, sign * np.inf, np.float16))
    v[0, 0, 0, 5] = 0
    gradients = FLASH.backward(problem, Settings(path=kind), do, q, k, v, forward(kind, problem, q, k, v))
    assert gradients.dv[0, 0, 0, 2] == sign * np.inf


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
def test_a_score_of_minus_infinity_hides_its_key(kind):
    # Products of infinity with numbers of both signs, whose lower parts are 0 or have the other sign if they
    # are rounded to nearest.
    problem = problem_of(33, head_dim=4)
    q, k, v, _ = problem.make_inputs()
    q[..., 0] = -np.abs(q[..., 0]) - 1
    k[0, 0, 7, 0] = np.inf
    result = forward(kind, problem, q, k, v)
    o, lse = attention_reference(problem, q, k, v)
    assert np.isfinite(result.o).all()
    np.testing.assert_allclose(result.o, o, atol=2.0**-11, rtol=2.0**-11)
    np.testing.assert_allclose(result.lse, lse, rtol=1e-5)


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
def test_scores_beyond_the_largest_float16_number_are_no_overflow(kind):
    problem = problem_of(70, head_dim=64, softmax_scale=2.0**-14)
    q, k, v, _ = (x * np.float16(60) for x in problem.make_inputs())
    v /= 60
    q[0, 0, :, 0], k[0, 0, :35, 0] = 300, 300
    result = forward(kind, problem, q, k, v)
    o, lse = attention_reference(problem, q, k, v)
    assert np.abs(q.astype("float64") @ k.astype("float64").swapaxes(2, 3)).max() > 2 * 65504
    np.testing.assert_allclose(result.o, o, atol=2.0**-11, rtol=2.0**-11)
    np.testing.assert_allclose(result.lse, lse, rtol=1e-5)


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
def test_many_small_weights_add_up(kind):
    problem = problem_of(40, seqlen_k=4096, head_dim=32)
    q, k, v, do = problem.make_inputs()
    k[:], v[:], do[:] = 0, 1, 1
    result = forward(kind, problem, q, k, v)
    np.testing.assert_array_equal(result.o, np.ones_like(result.o))
    gradients = FLASH.backward(problem, Settings(path=kind), do, q, k, v, result)
    np.testing.assert_allclose(gradients.dv, np.full_like(v, 40 / 4096), rtol=2.0**-11)


def _plain(problem, q, k, v):
    """o of attention in float16 throughout, as flash-attention's tests compute it."""
    q = q * np.float16(problem.scale)
    scores = (q.astype("float32") @ k.astype("float32").swapaxes(2, 3)).astype(np.float16).astype("float32")
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = (p / p.sum(axis=-1, keepdims=True)).astype(np.float16)
    return (p.astype("float32") @ v.astype("float32")).astype(np.float16)


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
@pytest.mark.parametrize("scale", [1, 5, 50])
def test_errors_are_no_larger_than_those_of_widened_numbers(kind, scale):
    # As `convert`, which is exact but for float32: leaving out l l does not show.
    problem = problem_of(256, num_heads=2, head_dim=64)
    q, k, v, do = problem.make_inputs()
    q, k = q * np.float16(scale), k * np.float16(scale)
    o, lse = attention_reference(problem, q, k, v)
    expected = attention_backward_reference(problem, do, q, k, v)
    errors = {}
    for path in (kind, "convert"):
        result = forward(path, problem, q, k, v)
        gradients = FLASH.backward(problem, Settings(path=path), do, q, k, v, result)
        pairs = [(result.o, o)] + [(getattr(gradients, n), getattr(expected, n)) for n in ("dq", "dk", "dv")]
        errors[path] = np.array([np.abs(actual - wanted).max() for actual, wanted in pairs])
        np.testing.assert_allclose(result.lse, lse, rtol=2e-6, atol=2e-6)
    assert (errors[kind] <= 1.25 * errors["convert"] + 1e-5).all(), errors
    assert errors[kind][0] <= np.abs(_plain(problem, q, k, v) - o).max() + 1e-5


@pytest.mark.parametrize("kind", FLOAT16_KINDS)
def test_subnormal_numbers_are_not_zero(kind):
    problem = problem_of(20, head_dim=16)
    q, k, v, _ = problem.make_inputs()
    v[:] = np.float16(2.0**-24) * np.arange(16, dtype=np.float16)
    result = forward(kind, problem, q, k, v)
    np.testing.assert_array_equal(result.o, v)
