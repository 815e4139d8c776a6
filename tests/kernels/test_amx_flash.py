"""Engine flash on tile registers, emulated ones and Intel's, against the oracle in float64."""

import numpy as np
import pytest
from helpers.amx import FLOAT16_KINDS, KINDS
from helpers.feature_checks import feature_combinations, problem_with
from helpers.feature_problems import random_extras
from helpers.half_exactness import assert_exact, outputs
from hypothesis import given
from hypothesis import strategies as st

from flashbench.dtypes import DTYPES
from flashbench.engines import Settings
from flashbench.extras import make_extras
from flashbench.kernels.products.paths import PATHS
from flashbench.problem import AttentionProblem

KINDS = [*KINDS, *FLOAT16_KINDS]


def dtype_of(kind):
    return PATHS[kind].dtypes[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 2, 5, 16, 17, 32, 33, 64, 80, 96, 128, 255, 256])
def test_every_head_dim_is_exact(kind, causal, head_dim):
    problem = AttentionProblem.of(
        37, seqlen_k=75, num_heads=2, head_dim=head_dim, head_dim_v=257 - head_dim, dtype=dtype_of(kind),
        causal=causal,
    )  # fmt: skip
    assert_exact(problem, Settings(path=kind))


@pytest.mark.parametrize("kind", KINDS)
@given(
    batch=st.integers(1, 2),
    group=st.integers(1, 3),
    seqlen_q=st.integers(1, 90),
    seqlen_k=st.integers(1, 150),
    head_dim=st.integers(1, 70),
    causal=st.booleans(),
    block_q=st.integers(1, 80),
    block_k=st.integers(1, 100),
    threads=st.integers(1, 3),
)
def test_any_shape_is_exact(
    kind, batch, group, seqlen_q, seqlen_k, head_dim, causal, block_q, block_k, threads
):
    problem = AttentionProblem.of(
        seqlen_q, seqlen_k=seqlen_k, batch=batch, num_heads=2 * group, num_kv_heads=2, head_dim=head_dim,
        dtype=dtype_of(kind), causal=causal,
    )  # fmt: skip
    assert_exact(problem, Settings(path=kind, block_q=block_q, block_k=block_k, num_threads=threads))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("combination", feature_combinations())
def test_features_are_exact(kind, combination):
    problem = problem_with(combination, dtype=dtype_of(kind))
    assert_exact(problem, Settings(path=kind, block_q=24, block_k=20), extras=random_extras(problem))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["q", "k", "v", "do"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("seqlen", [45, 64])
def test_nan_and_infinity_reach_only_rows_that_attend_to_them(kind, name, number, seqlen):
    # 45 queries leave lanes without a query; 64 fill their tiles.
    problem = AttentionProblem.of(seqlen, num_heads=2, head_dim=32, dtype=dtype_of(kind), causal=True)
    inputs = problem.make_inputs()
    getattr(inputs, name)[0, :, 20, 3] = DTYPES[dtype_of(kind)].make(np.array([number]))[0]
    assert_exact(problem, Settings(path=kind, block_q=32, block_k=16), inputs=inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("descending", [False, True])
def test_a_row_max_that_grows_with_every_tile_is_exact(kind, descending):
    """Weights are made on the guess that it does not."""
    problem = AttentionProblem.of(40, seqlen_k=200, num_heads=2, head_dim=32, dtype=dtype_of(kind))
    inputs = problem.make_inputs()
    steps = np.linspace(0, 6, problem.seqlen_k)[:: -1 if descending else 1]
    keys = DTYPES[problem.dtype].view(inputs.k).astype("float64") * 0.1 + steps[:, np.newaxis]
    queries = 1 + 0.1 * DTYPES[problem.dtype].view(inputs.q).astype("float64")
    inputs = inputs._replace(k=DTYPES[problem.dtype].make(keys), q=DTYPES[problem.dtype].make(queries))
    assert_exact(problem, Settings(path=kind, block_q=32, block_k=16), inputs=inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_mask_is_exact(kind):
    problem = AttentionProblem.of(
        70, seqlen_k=50, num_heads=2, head_dim=24, dtype=dtype_of(kind), mask="float", causal=True
    )
    assert_exact(problem, Settings(path=kind), extras=make_extras(problem))


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_same_bits_for_any_number_of_threads(kind):
    problem = AttentionProblem.of(300, num_heads=4, num_kv_heads=2, dtype=dtype_of(kind), causal=True)
    inputs = problem.make_inputs()
    results = [
        outputs(problem, Settings(path=kind, block_q=32, block_k=64, num_threads=threads), inputs)
        for threads in (1, 2, 5)
    ]
    (first, gradients), *others = results
    for forward, other in others:
        np.testing.assert_array_equal(first.o, forward.o)
        for name in ("dq", "dk", "dv"):
            np.testing.assert_array_equal(getattr(gradients, name), getattr(other, name))
