"""Every optional feature of the flash engine, alone and with others: exact, NaN contained, any threads."""

import msgspec
import numpy as np
import pytest
from helpers.feature_checks import assert_features_are_exact
from helpers.feature_problems import problems, random_extras, visible_pairs
from helpers.support import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import Extras, make_extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import tolerance_for

FLASH = FlashEngine()
NO_PAGES = frozenset({"block_table"})
BLOCKS = st.one_of(st.none(), st.integers(1, 40))


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@settings(max_examples=400)
@given(data=st.data(), seed=st.integers(0, 100), block_q=BLOCKS, block_k=BLOCKS, threads=st.integers(1, 3))
def test_any_features_are_exact(dtype, data, seed, block_q, block_k, threads):
    problem = data.draw(problems(without=NO_PAGES, longest=70, widest=9, dtype=dtype))
    chosen = Settings(block_q, block_k, threads)
    assert_features_are_exact(FLASH, problem, random_extras(problem, seed), chosen)


LONG = {
    "window": {"window": (70, 31)},
    "one-sided-window": {"window": (None, 90)},
    "causal-window": {"window": (130, None), "causal": True},
    "top-left-window": {"window": (40, 3), "causal_alignment": "top-left"},
    "softcap": {"softcap": 1.5},
    "wide-softcap": {"softcap": 50.0},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool"},
    "bool-mask-of-keys": {"mask": "bool", "mask_axes": "bk"},
    "bool-mask-of-queries": {"mask": "bool", "mask_axes": "hq"},
    "float-mask": {"mask": "float"},
    "float-mask-of-heads": {"mask": "float", "mask_axes": "hqk"},
    "float-mask-of-keys": {"mask": "float", "mask_axes": "k"},
    "block-mask": {"mask": "block"},
    "block-mask-of-odd-blocks": {"mask": "block", "mask_block_q": 19, "mask_block_k": 37},
    "key-lengths": {"key_lengths": (203, 0)},
    "varlen": {"query_lengths": (113, 40), "key_lengths": (9, 160)},
    "dropout": {"dropout": 0.2, "dropout_seed": 2**63 + 5},
}


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LONG)
def test_features_over_many_tiles_are_exact(name, dtype):
    problem = AttentionProblem.of(
        163,
        seqlen_k=203,
        batch=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=40,
        head_dim_v=24,
        dtype=dtype,
        **LONG[name],
    )
    for chosen in (Settings(), Settings(16, 16), Settings(32, 100, 1)):
        assert_features_are_exact(FLASH, problem, random_extras(problem), chosen)


@pytest.mark.parametrize("name", LONG)
def test_bits_do_not_depend_on_the_number_of_threads(name):
    problem = AttentionProblem.of(
        163, seqlen_k=203, batch=2, num_heads=4, num_kv_heads=2, head_dim=16, **LONG[name]
    )
    extras = random_extras(problem)
    q, k, v, do = problem.make_inputs()
    found = []
    for threads in (1, 2, 3, 7):
        chosen = Settings(16, 32, threads)
        forward = FLASH.forward(problem, chosen, q, k, v, extras=extras)
        gradients = FLASH.backward(problem, chosen, do, q, k, v, forward, extras=extras, mask_gradient=True)
        found.append([forward.o, forward.lse, *gradients, gradients.dsinks, gradients.dmask])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("mask", ["window", "bool-mask", "float-mask", "block-mask", "key-lengths", "varlen"])
def test_what_is_not_finite_reaches_just_the_rows_that_see_it(mask, value):
    problem = AttentionProblem.of(163, seqlen_k=203, batch=2, num_heads=2, head_dim=16, **LONG[mask])
    extras = random_extras(problem)
    key = 30 if problem.packed else 100  # of the second sequence, if there is room for it
    for name in ("k", "v"):
        inputs = problem.make_inputs()
        place = (0, slice(None), key) if problem.packed else (1, slice(None), key)
        getattr(inputs, name)[place] = value
        q, k, v, do = inputs
        o, _ = attention_reference(problem, q, k, v, extras)
        expected = attention_backward_reference(problem, do, q, k, v, extras)
        for chosen in (Settings(), Settings(16, 16)):
            forward = FLASH.forward(problem, chosen, q, k, v, extras=extras)
            assert_close(np.isnan(forward.o).astype(float), np.isnan(o).astype(float), 0.0)
            finite = np.isfinite(o).all(axis=-1)
            assert_close(forward.o[finite], o[finite], tolerance_for("float64", "o"))
            gradients = FLASH.backward(problem, chosen, do, q, k, v, forward, extras=extras)
            for what in ("dq", "dk", "dv"):
                mine, right = getattr(gradients, what), getattr(expected, what)
                assert_close(np.isnan(mine).astype(float), np.isnan(right).astype(float), 0.0)


def test_a_nan_in_a_query_reaches_no_key_that_it_does_not_see():
    problem = AttentionProblem.of(64, seqlen_k=64, mask="bool", head_dim=8)
    extras = random_extras(problem)
    q, k, v, do = problem.make_inputs()
    q[0, 0, 20] = np.nan
    forward = FLASH.forward(problem, Settings(), q, k, v, extras=extras)
    dk = FLASH.backward(problem, Settings(), do, q, k, v, forward, extras=extras).dk
    sees = visible_pairs(problem, extras, 0, 0)[20]
    np.testing.assert_array_equal(np.isnan(dk[0, 0]).any(axis=-1), sees)


@settings(max_examples=30)
@given(problem=problems(without=NO_PAGES | {"sinks", "dropout"}, longest=40, widest=6))
def test_a_constant_v_has_no_gradient_by_q_and_k(problem):
    extras = random_extras(problem)
    q, k, v, do = problem.make_inputs()
    v[...] = v[:1, :1, :1]
    forward = FLASH.forward(problem, Settings(), q, k, v, extras=extras)
    gradients = FLASH.backward(problem, Settings(), do, q, k, v, forward, extras=extras)
    assert_close(gradients.dq, np.zeros(q.shape), 1e-12)
    assert_close(gradients.dk, np.zeros(k.shape), 1e-12)


def test_a_permutation_of_the_keys_changes_nothing():
    problem = AttentionProblem.of(50, seqlen_k=90, num_heads=2, softcap=2.0, sinks=True, mask="float")
    extras = make_extras(problem)
    q, k, v, do = problem.make_inputs()
    order = np.random.default_rng(3).permutation(90)
    shuffled = extras._replace(mask=extras.mask[..., order])
    one = FLASH.forward(problem, Settings(), q, k, v, extras=extras)
    other = FLASH.forward(problem, Settings(), q, k[:, :, order], v[:, :, order], extras=shuffled)
    assert_close(one.o, other.o, 1e-13)
    gradient = FLASH.backward(problem, Settings(), do, q, k, v, one, extras=extras)
    moved = FLASH.backward(problem, Settings(), do, q, k[:, :, order], v[:, :, order], other, extras=shuffled)
    assert_close(gradient.dk[:, :, order], moved.dk, 1e-13)


def test_a_mask_is_read_where_it_lies():
    """Transposed, every other, backwards, broadcast: any strides."""
    problem = AttentionProblem.of(70, seqlen_k=90, num_heads=2, mask="float", mask_axes="hqk", head_dim=8)
    extras = random_extras(problem)
    q, k, v, _ = problem.make_inputs()
    plain = np.ascontiguousarray(extras.mask)
    layouts = (
        plain.swapaxes(2, 3).copy().swapaxes(2, 3),
        np.repeat(plain, 2, axis=3)[..., ::2],
        plain[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    )
    right = FLASH.forward(problem, Settings(), q, k, v, extras=extras).o
    hides = msgspec.structs.replace(problem, mask="bool")
    for mask in layouts:
        np.testing.assert_array_equal(
            FLASH.forward(problem, Settings(), q, k, v, extras=extras._replace(mask=mask)).o, right
        )
        seen = FLASH.forward(hides, Settings(), q, k, v, extras=extras._replace(mask=mask > 0)).o
        expected = attention_reference(hides, q, k, v, extras._replace(mask=plain > 0))[0]
        assert_close(seen, expected, tolerance_for("float64", "o"))


@pytest.mark.parametrize("use_simd", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seqlen_q", [6, 40])  # the decoding path, and the path with tiles
def test_a_mask_of_the_lowest_float_hides_nothing(seqlen_q, dtype, use_simd):
    """A row with only that number is the mean of all values. Its lse does not give p: gradients are 0."""
    problem = AttentionProblem.of(seqlen_q, seqlen_k=50, num_heads=2, head_dim=9, dtype=dtype, mask="float")
    mask = np.zeros((seqlen_q, 50), dtype)
    mask[2] = mask[4, :30] = np.finfo(dtype).min
    extras = Extras(np.broadcast_to(mask, (1, 2, seqlen_q, 50)))
    q, k, v, do = problem.make_inputs()
    chosen = Settings(block_k=16, use_simd=use_simd, num_threads=1)
    forward = FLASH.forward(problem, chosen, q, k, v, extras=extras)
    o, lse = attention_reference(problem, q, k, v, extras)
    others = np.arange(seqlen_q) != 2
    assert_close(forward.o, o, tolerance_for(dtype, "o"))
    assert_close(forward.lse[..., others], lse[..., others], tolerance_for(dtype, "lse"))
    assert np.isfinite(forward.lse).all()

    found = FLASH.backward(problem, chosen, do, q, k, v, forward, extras=extras)
    do[:, :, 2] = 0
    expected = attention_backward_reference(problem, do, q, k, v, extras)
    for name, actual, wanted in zip(("dq", "dk", "dv"), found, expected, strict=True):
        assert_close(actual, wanted, tolerance_for(dtype, name))


@pytest.mark.parametrize("use_simd", [True, False])
@pytest.mark.parametrize(("dtype", "entry"), [("float64", -1e20), ("float32", -1e9), ("float32", -1e20)])
def test_gradients_of_rows_whose_lse_tells_nothing_are_zero(dtype, entry, use_simd):
    problem = AttentionProblem.of(40, num_heads=2, head_dim=9, dtype=dtype, mask="float")
    mask = np.zeros((40, 40), dtype)
    mask[3:9] = entry
    extras = Extras(np.broadcast_to(mask, (1, 2, 40, 40)))
    q, k, v, do = problem.make_inputs()
    chosen = Settings(use_simd=use_simd, num_threads=1)
    forward = FLASH.forward(problem, chosen, q, k, v, extras=extras)
    found = FLASH.backward(problem, chosen, do, q, k, v, forward, extras=extras)
    do[:, :, 3:9] = 0
    expected = attention_backward_reference(problem, do, q, k, v, extras)
    for name, actual, wanted in zip(("dq", "dk", "dv"), found, expected, strict=True):
        assert_close(actual, wanted, tolerance_for(dtype, name))
