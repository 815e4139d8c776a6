"""Attention in bfloat16 by dot products of pairs, against the oracle in float64."""

import numpy as np
import pytest
from helpers.dot_bf16 import KINDS
from helpers.feature_checks import feature_combinations, problem_with
from helpers.feature_problems import random_extras
from helpers.half_exactness import assert_exact
from helpers.support import assert_close
from helpers.tiles import NAN
from hypothesis import given
from hypothesis import strategies as st

from flashbench.dtypes import DTYPES
from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import NO_EXTRAS, make_extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference, largest_finite

FLASH = FlashEngine()
BFLOAT16 = DTYPES["bfloat16"]


def dense(problem, inputs):
    """q, k, v, do with one key head for each query head, and which pairs are visible."""
    group = problem.num_heads // problem.num_kv_heads
    q, k, v, do = (BFLOAT16.view(x) for x in inputs)
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    i, j = np.ogrid[: problem.seqlen_q, : problem.seqlen_k]
    return q, k, v, do, (j <= i + problem.diagonal_offset) | (not problem.causal)


def softmax(s, visible):
    s = np.where(visible, s, -np.inf)
    top = s.max(axis=3, keepdims=True)
    p = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = p.sum(axis=3, keepdims=True)
    return np.divide(p, total, out=np.zeros_like(p), where=total > 0)


def over_group(problem, x):
    """The sum over the query heads of each key head."""
    return x.reshape(x.shape[0], problem.num_kv_heads, -1, *x.shape[2:]).sum(axis=2)


def turned(x):
    return x.swapaxes(2, 3)


def bounds(problem, inputs):
    """How far o, dq, dk and dv may be from exact ones: every rounding to bfloat16 in its worst direction.

    p and ds are rounded before they are multiplied, the results after; delta is made from a rounded o.
    """
    u = BFLOAT16.unit_roundoff
    q, k, v, do, visible = (x.astype(float) for x in dense(problem, inputs))
    p = softmax(q @ turned(k) * problem.scale, visible.astype(bool))
    o = p @ v
    of_o = u * (p @ np.abs(v) + np.abs(o))
    ds = p * (do @ turned(v) - (do * o).sum(axis=3, keepdims=True)) * problem.scale
    of_ds = u * np.abs(ds) + p * (of_o * np.abs(do)).sum(axis=3, keepdims=True) * problem.scale
    of_dq = of_ds @ np.abs(k) + u * np.abs(ds @ k)
    of_dk = over_group(problem, turned(of_ds) @ np.abs(q))
    of_dv = over_group(problem, u * turned(p) @ np.abs(do))
    of_dk += u * np.abs(over_group(problem, turned(ds) @ q))
    of_dv += u * np.abs(over_group(problem, turned(p) @ do))
    return of_o, of_dq, of_dk, of_dv


def naive(problem, inputs):
    """o, dq, dk and dv by the formulas, every intermediate result rounded to bfloat16, sums in float32."""

    def r(x):
        return BFLOAT16.view(BFLOAT16.make(x))

    q, k, v, do, visible = dense(problem, inputs)
    scale = np.float32(problem.scale)
    p = r(softmax(r(r(q @ turned(k)) * scale), visible))
    o = r(p @ v)
    dp = r(do @ turned(v))
    ds = r(p * r(dp - r((do * o).sum(axis=3, keepdims=True))) * scale)
    dk, dv = (r(over_group(problem, r(x))) for x in (turned(ds) @ q, turned(p) @ do))
    return o, r(ds @ k), dk, dv


def results(problem, settings, inputs, extras=NO_EXTRAS):
    """o, lse, dq, dk, dv as float32."""
    q, k, v, do = inputs
    forward = FLASH.forward(problem, settings, q, k, v, extras=extras)
    gradients = FLASH.backward(problem, settings, do, q, k, v, forward, extras=extras)
    return BFLOAT16.view(forward.o), forward.lse, *(BFLOAT16.view(x) for x in gradients)


def inputs_of(problem, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    shapes = problem.q_shape, problem.k_shape, (*problem.k_shape[:3], problem.head_dim_v)
    do = (*problem.q_shape[:3], problem.head_dim_v)
    return [BFLOAT16.make(size * rng.standard_normal(shape)) for shape in (*shapes, do)]


def expected_of(problem, inputs, extras=NO_EXTRAS):
    """(o and lse, the gradients) of the oracle."""
    q, k, v, do = inputs
    forward = attention_reference(problem, q, k, v, extras)
    return forward, attention_backward_reference(problem, do, q, k, v, extras)


@pytest.mark.parametrize("path", KINDS)
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    seqlen_q=st.integers(1, 80),
    seqlen_k=st.integers(1, 80),
    head_dim=st.integers(1, 72),
    head_dim_v=st.integers(1, 72),
    causal=st.booleans(),
    block_q=st.integers(1, 80),
    block_k=st.integers(1, 80),
    size=st.sampled_from([1.0, 5.0]),
    seed=st.integers(0, 100),
)
def test_any_shape_is_as_exact_as_its_roundings(
    path, heads, seqlen_q, seqlen_k, head_dim, head_dim_v, causal, block_q, block_k, size, seed
):
    num_heads, num_kv_heads = heads
    problem = AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        dtype="bfloat16",
        causal=causal,
    )
    inputs = inputs_of(problem, seed, size)
    settings = Settings(block_q, block_k, 1, path=path)
    (o, lse), gradients = expected_of(problem, inputs)
    actual_o, actual_lse, *actual = results(problem, settings, inputs)
    assert_close(actual_lse, lse, 1e-5 * max(1.0, largest_finite(lse)))
    # float32 rounds too: o and dv are means of one input, dq and dk have the size of three.
    for power, one, right, bound in zip(
        (1, 3, 3, 1), [actual_o, *actual], [o, *gradients], bounds(problem, inputs), strict=True
    ):
        np.testing.assert_array_less(np.abs(one - right), 1.05 * bound + 1e-5 * size**power)


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("size", [1.0, 5.0, 100.0])
@pytest.mark.parametrize("causal", [False, True])
def test_errors_are_as_small_as_flash_attention_asks(path, causal, size):
    """o at most twice as far from the oracle as a naive computation, gradients at most three times."""
    problem = AttentionProblem.of(
        300, num_heads=4, num_kv_heads=2, head_dim=64, dtype="bfloat16", causal=causal
    )
    inputs = inputs_of(problem, 0, size)
    (o, _), gradients = expected_of(problem, inputs)
    actual_o, _, *actual = results(problem, Settings(path=path), inputs)
    for factor, one, right, other in zip(
        (2, 3, 3, 3), [actual_o, *actual], [o, *gradients], naive(problem, inputs), strict=True
    ):
        assert_close(one, right, factor * np.abs(other - right).max() + 1e-5)


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("combination", feature_combinations())
def test_features_are_exact(path, combination):
    problem = problem_with(combination, dtype="bfloat16")
    assert_exact(problem, Settings(24, 20, path=path), extras=random_extras(problem))


MASKS = {
    "causal": {"causal": True},
    "window": {"window": (9, 12)},
    "bool-mask": {"mask": "bool", "mask_axes": "hqk"},
    "float-mask": {"mask": "float", "mask_axes": "hqk"},
    "block-mask": {"mask": "block", "mask_block_q": 19, "mask_block_k": 16},
    "key-lengths": {"key_lengths": (53, 30)},
}


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["q", "k", "v", "do"])
@pytest.mark.parametrize("mask", MASKS)
def test_what_is_not_finite_reaches_just_what_sees_it(path, mask, name, value):
    """Odd numbers of queries, keys and columns: each has a neighbour in its pair that must stay zero."""
    problem = AttentionProblem.of(
        37, seqlen_k=53, batch=2, num_heads=2, head_dim=17, dtype="bfloat16", **MASKS[mask]
    )
    extras = make_extras(problem)
    if problem.mask in ("bool", "float"):  # keys that no query sees, queries that see no key
        visible = extras.mask.copy()
        for hidden in ((..., slice(20, 30)), (..., slice(28, 33), slice(None))):
            visible[hidden] = False if problem.mask == "bool" else -np.inf
        extras = extras._replace(mask=visible)
    for row in (5, 25, 36):
        inputs = dict(zip(["q", "k", "v", "do"], inputs_of(problem), strict=True))
        inputs[name][1, :, row, 3] = BFLOAT16.make(np.array([value]))
        forward, gradients = expected_of(problem, inputs.values(), extras)
        expected = forward[0], *gradients
        for settings in (Settings(path=path), Settings(16, 16, path=path)):
            o, _, *gradients = results(problem, settings, list(inputs.values()), extras)
            for actual, right in zip([o, *gradients], expected, strict=True):
                finite = np.isfinite(right)
                # Where an infinity is visible, a sum may be infinite or NaN, as it is added up.
                np.testing.assert_array_equal(np.isfinite(actual), finite)
                np.testing.assert_allclose(actual[finite], right[finite], rtol=0.02, atol=0.05)


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("heads", [(1, 1), (3, 1)])
def test_results_are_the_same_bits_for_any_number_of_threads(path, heads):
    num_heads, num_kv_heads = heads
    problem = AttentionProblem.of(
        217, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=40, dtype="bfloat16", causal=True
    )
    inputs = inputs_of(problem)
    expected = results(problem, Settings(16, 48, 1, path=path), inputs)
    for threads in (2, 3, 5):
        actual = results(problem, Settings(16, 48, threads, path=path), inputs)
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("head_dim", [24, 25])
def test_rows_at_any_stride_and_address_give_the_same_bits(path, head_dim):
    problem = AttentionProblem.of(33, seqlen_k=45, num_heads=2, head_dim=head_dim, dtype="bfloat16")
    inputs = inputs_of(problem)
    expected = results(problem, Settings(path=path), inputs)
    for row, start in ((head_dim + 1, 1), (head_dim + 8, 2), (2 * head_dim, 3)):
        strided = []
        for x in inputs:
            memory = np.full(x.size // head_dim * row + start, NAN, np.uint16)
            wide = memory[start:].reshape(*x.shape[:3], row)
            wide[..., :head_dim] = x
            strided.append(wide[..., :head_dim])
        for one, other in zip(results(problem, Settings(path=path), strided), expected, strict=True):
            np.testing.assert_array_equal(one, other)
