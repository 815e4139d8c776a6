"""Every optional feature of the standard engine, alone and with others, against the oracle."""

import numpy as np
import pytest
from helpers.feature_checks import assert_features_are_exact, feature_combinations, poisoned, problem_with
from helpers.feature_problems import problems, random_extras
from hypothesis import given
from hypothesis import strategies as st

from flashbench.block_mask import BlockMask
from flashbench.engines import Settings
from flashbench.engines.standard import StandardEngine
from flashbench.extras import NO_EXTRAS, Extras, make_extras
from flashbench.problem import AttentionProblem, Inputs

STANDARD = StandardEngine()
NO_PAGES = frozenset({"block_table"})


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("combination", feature_combinations())
def test_each_feature_and_each_pair_of_features_is_exact(combination, causal, dtype):
    problem = problem_with(combination, causal=causal, dtype=dtype)
    assert_features_are_exact(STANDARD, problem, random_extras(problem))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(data=st.data(), seed=st.integers(0, 100), threads=st.integers(1, 3))
def test_any_features_are_exact(dtype, data, seed, threads):
    problem = data.draw(problems(without=NO_PAGES, longest=70, widest=9, dtype=dtype))
    assert_features_are_exact(STANDARD, problem, random_extras(problem, seed), Settings(num_threads=threads))


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("combination", feature_combinations())
def test_nan_reaches_the_rows_that_see_it_and_no_others(combination, causal, dtype):
    problem = problem_with(combination, causal=causal, dtype=dtype)
    extras = random_extras(problem)
    assert_features_are_exact(STANDARD, problem, extras, inputs=poisoned(problem))


@given(data=st.data(), seed=st.integers(0, 100))
def test_nan_is_contained_with_any_features(data, seed):
    problem = data.draw(problems(without=NO_PAGES, longest=20))
    extras = random_extras(problem, seed)
    assert_features_are_exact(STANDARD, problem, extras, inputs=poisoned(problem, seed))


def test_infinities_in_hidden_keys_change_nothing():
    problem = AttentionProblem.of(20, key_lengths=(13,), window=(9, 2), mask="bool")
    mask = make_extras(problem).mask.copy()
    mask[..., 4] = False
    hidden = (np.arange(20) >= 13) | (np.arange(20) == 4)
    inputs = problem.make_inputs()
    inputs.k[0, 0, hidden], inputs.v[0, 0, hidden] = np.inf, -np.inf
    assert_features_are_exact(STANDARD, problem, Extras(mask), inputs=inputs)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("mask", ["bool", "float", "block"])
def test_rows_that_see_nothing_are_zero_whatever_they_hold(mask, sinks):
    problem = AttentionProblem.of(9, num_heads=2, mask=mask, sinks=sinks, mask_block_q=2, mask_block_k=2)
    visible = np.ones((9, 9), bool)
    visible[3:6] = False
    masks = {
        "bool": np.broadcast_to(visible, (1, 2, 9, 9)),
        "float": np.broadcast_to(np.where(visible, 0.0, -np.inf), (1, 2, 9, 9)),
        "block": BlockMask.from_mask(visible, 2),
    }
    extras = make_extras(problem)._replace(mask=masks[mask])
    inputs = problem.make_inputs()
    inputs.q[:, :, 3:6] = np.nan
    inputs.do[:, :, 3:6] = np.nan
    assert_features_are_exact(STANDARD, problem, extras, inputs=inputs)
    forward = STANDARD.forward(problem, Settings(), *inputs[:3], extras=extras)
    np.testing.assert_array_equal(forward.o[:, :, 3:6], 0.0)
    lse = np.broadcast_to(extras.sinks[:, np.newaxis], (2, 3)) if sinks else np.full((2, 3), -np.inf)
    np.testing.assert_array_equal(forward.lse[0, :, 3:6], lse)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_mask_of_the_lowest_float_hides_nothing(dtype):
    # Some models fill masks with this number. In all of a row it gives a plain mean; in a part it hides that
    # part.
    problem = AttentionProblem.of(6, dtype=dtype, mask="float")
    mask = np.zeros((6, 6), dtype)
    mask[2] = mask[4, :3] = np.finfo(dtype).min
    extras = Extras(np.broadcast_to(mask, (1, 1, 6, 6)))
    assert_features_are_exact(STANDARD, problem, extras)


@pytest.mark.parametrize("axes", ["", "b", "h", "q", "k", "bh", "qk", "bk", "hq", "bhqk"])
def test_results_are_the_same_bits_for_any_number_of_threads(axes):
    problem = AttentionProblem.of(
        307,
        batch=2,
        num_heads=3,
        causal=True,
        dtype="float32",
        mask="float",
        mask_axes=axes,
        softcap=2.0,
        sinks=True,
        dropout=0.2,
    )
    extras = make_extras(problem)
    q, k, v, do = problem.make_inputs()

    def outputs(threads):
        settings = Settings(num_threads=threads)
        forward = STANDARD.forward(problem, settings, q, k, v, extras=extras, keep=True)
        gradients = STANDARD.backward(
            problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=True
        )
        return forward.o, forward.lse, *gradients, gradients.dsinks, gradients.dmask

    expected = outputs(1)
    for threads in (2, 3, 5):
        for one, other in zip(outputs(threads), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mask", ["bool", "float"])
@pytest.mark.parametrize("layout", ["transposed", "every-other", "reversed", "unaligned"])
def test_a_mask_of_any_strides_is_read_right(layout, mask):
    problem = AttentionProblem.of(33, seqlen_k=29, batch=2, num_heads=3, mask=mask, mask_axes="bhqk")
    extras = random_extras(problem)
    dense = np.ascontiguousarray(extras.mask)
    if layout == "transposed":
        strided = np.ascontiguousarray(dense.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    elif layout == "every-other":
        strided = np.repeat(dense, 2, axis=3)[..., ::2]
    elif layout == "reversed":
        strided = dense[:, ::-1, ::-1, ::-1].copy()[:, ::-1, ::-1, ::-1]
    else:
        fields = np.zeros(dense.shape, np.dtype([("x", "u1"), ("mask", dense.dtype)]))
        fields["mask"] = dense
        strided = fields["mask"]
    np.testing.assert_array_equal(strided, dense)
    assert_features_are_exact(STANDARD, problem, extras._replace(mask=strided))


def test_packed_sequences_may_lie_row_by_row():
    problem = problem_with("varlen+window", head_dim_v=11)
    by_rows = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in problem.make_inputs())
    inputs = Inputs(*(x.transpose(0, 2, 1, 3) for x in by_rows))
    assert_features_are_exact(STANDARD, problem, NO_EXTRAS, inputs=inputs)


def test_packed_sequences_are_not_padded():
    lengths = (300, 10, 10, 10)
    packed = AttentionProblem.of(
        300, batch=4, query_lengths=lengths, key_lengths=lengths, dtype="float32", num_heads=2
    )
    own = 2 * 4 * (300**2 + 3 * 10**2)
    expected = STANDARD.workspace_bytes(packed, "fwd", Settings(num_threads=1))
    assert own <= expected <= own + 2048


@pytest.mark.parametrize("window", [(2**63 - 1, 2**63 - 1), (2**70, 3)])
def test_a_window_may_be_wider_than_any_number_of_keys(window):
    assert_features_are_exact(STANDARD, AttentionProblem.of(9, seqlen_k=7, window=window), NO_EXTRAS)
