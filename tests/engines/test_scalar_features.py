"""Every optional feature of the scalar loops, alone and with others, against the oracle."""

import pytest
from helpers.feature_checks import assert_features_are_exact, feature_combinations, poisoned, problem_with
from helpers.feature_problems import problems, random_extras
from hypothesis import given
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import NO_EXTRAS
from flashbench.problem import AttentionProblem

FLASH = FlashEngine()
LOOPS = Settings(use_simd=False)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("combination", feature_combinations())
def test_each_feature_and_each_pair_of_features_is_exact(combination, causal, dtype):
    problem = problem_with(combination, causal=causal, dtype=dtype)
    assert_features_are_exact(FLASH, problem, random_extras(problem), LOOPS)


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(data=st.data(), seed=st.integers(0, 100))
def test_any_features_are_exact(dtype, data, seed):
    problem = data.draw(problems(dtype=dtype))
    assert_features_are_exact(FLASH, problem, random_extras(problem, seed), LOOPS)


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("combination", feature_combinations())
def test_nan_reaches_the_rows_that_see_it_and_no_others(combination, causal, dtype):
    problem = problem_with(combination, causal=causal, dtype=dtype)
    assert_features_are_exact(FLASH, problem, random_extras(problem), LOOPS, inputs=poisoned(problem))


@pytest.mark.grid
@given(data=st.data(), seed=st.integers(0, 100))
def test_nan_is_contained_with_any_features(data, seed):
    problem = data.draw(problems(longest=20))
    extras = random_extras(problem, seed)
    assert_features_are_exact(FLASH, problem, extras, LOOPS, inputs=poisoned(problem, seed))


@pytest.mark.parametrize("window", [(2**63 - 1, 2**63 - 1), (2**70, 3)])
def test_a_window_may_be_wider_than_any_number_of_keys(window):
    assert_features_are_exact(FLASH, AttentionProblem.of(9, seqlen_k=7, window=window), NO_EXTRAS, LOOPS)
