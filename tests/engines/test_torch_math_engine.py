"""PyTorch's math attention: exact with any mask, and one graph serves many backwards."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from helpers.support import assert_engine_is_exact

from flashbench.engines import Ran, Settings, get_engine
from flashbench.problem import AttentionProblem

torch = pytest.importorskip("torch")
ENGINE = get_engine("torch-math")
SETTINGS = Settings(num_threads=1)

PROBLEMS = [
    AttentionProblem.of(1, head_dim=1),
    AttentionProblem.of(33, seqlen_k=70, batch=2, num_heads=3, head_dim=17, head_dim_v=5),
    AttentionProblem.of(40, num_heads=6, num_kv_heads=2, causal=True),
    AttentionProblem.of(13, seqlen_k=29, causal=True),
    AttentionProblem.of(29, seqlen_k=13, num_heads=2, causal=True),  # the first rows see no key
    AttentionProblem.of(13, seqlen_k=29, causal=True, causal_alignment="top-left"),
    AttentionProblem.of(20, softmax_scale=-0.2, causal=True),
    AttentionProblem.of(20, softmax_scale=0.0, causal=True),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_matches_the_oracle(problem: AttentionProblem, dtype: str) -> None:
    assert ENGINE.unsupported(problem, "bwd") is None
    assert_engine_is_exact(ENGINE, msgspec.structs.replace(problem, dtype=dtype), SETTINGS)


def test_one_forward_serves_many_backwards() -> None:
    problem = AttentionProblem.of(9, num_heads=4, num_kv_heads=2, causal=True)
    q, k, v, do = problem.make_inputs()
    kept = ENGINE.forward(problem, SETTINGS, q, k, v, keep=True)
    first = ENGINE.backward(problem, SETTINGS, do, q, k, v, kept)
    again = ENGINE.backward(problem, SETTINGS, 2 * do, q, k, v, kept)
    for once, twice in zip(first, again, strict=True):
        assert np.allclose(2 * once, twice, rtol=1e-12, atol=0)


def test_the_operator_is_the_public_functions_math_backend() -> None:
    problem = AttentionProblem.of(30, num_heads=4, num_kv_heads=2, causal=True, dtype="float32")
    q, k, v, _ = problem.make_inputs()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        public = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.from_numpy, (q, k, v)), is_causal=True, enable_gqa=True
        )
    assert np.array_equal(ENGINE.forward(problem, SETTINGS, q, k, v).o, public.numpy())
    assert ENGINE.kernel(problem, "fwd") == Ran("math")


def test_gives_no_lse_and_keeps_no_graph_unasked() -> None:
    problem = AttentionProblem.of(4)
    forward = ENGINE.forward(problem, SETTINGS, *problem.make_inputs()[:3])
    assert forward.lse is None
    assert forward.saved is None
    assert ENGINE.blocks(problem, "fwd", SETTINGS) is None
    assert ENGINE.workspace_bytes(problem, "fwd", SETTINGS) is None
