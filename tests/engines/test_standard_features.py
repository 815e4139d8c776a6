"""Every optional feature of the standard engine, alone and with others, against the oracle."""

import pytest
from feature_checks import assert_features_are_exact
from feature_problems import problems, random_extras
from hypothesis import given, settings
from hypothesis import strategies as st

from flashbench.engines import Settings
from flashbench.engines.standard import StandardEngine

STANDARD = StandardEngine()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@settings(max_examples=400)
@given(data=st.data(), seed=st.integers(0, 100), threads=st.integers(1, 3))
def test_any_features_are_exact(dtype, data, seed, threads):
    problem = data.draw(problems(without=frozenset({"block_table"}), longest=70, widest=9, dtype=dtype))
    assert_features_are_exact(STANDARD, problem, random_extras(problem, seed), Settings(num_threads=threads))
