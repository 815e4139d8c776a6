"""Tolerances: the promised figures, and that they grow with the inputs as the answers do."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close

from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import DOCUMENTED_TOLERANCE, Sizes, tolerance_for

OUTPUTS = ("o", "lse", "dq", "dk", "dv")


@pytest.mark.parametrize("what", ["fwd", "bwd", "fwd_bwd", *OUTPUTS])
def test_float64_is_held_to_a_hundredth_of_the_documented_tolerance(what: str) -> None:
    assert tolerance_for("float64", what, seqlen_q=8192) == pytest.approx(DOCUMENTED_TOLERANCE / 100)


@pytest.mark.parametrize("what", OUTPUTS)
def test_float32_is_held_to_a_few_hundred_roundings(what: str) -> None:
    assert 100 * 2.0**-24 < tolerance_for("float32", what, seqlen_q=8192) < 2000 * 2.0**-24


def test_gradients_of_keys_that_very_many_queries_share_get_more() -> None:
    def bound(**sizes: int) -> list[float]:
        return [tolerance_for("float32", what, **sizes) / 2.0**-24 for what in ("dq", "dk", "dv")]

    assert bound(seqlen_q=16384) == pytest.approx([1024, 1024, 1024])
    assert bound(seqlen_q=4096, heads_per_key=8) == pytest.approx([1024, 4096, 4096])
    assert bound(seqlen_q=16, heads_per_key=4) == pytest.approx([1024, 2048, 2048])
    assert bound(seqlen_q=4096, seqlen_k=2) == pytest.approx([1024, 16384, 16384])
    assert bound(seqlen_q=4096, seqlen_k=4096) == bound(seqlen_q=4096)
    assert tolerance_for("float64", "bwd", heads_per_key=8, seqlen_q=8192) == 1e-12
    assert tolerance_for("float64", "fwd", heads_per_key=64, seqlen_q=8192, seqlen_k=1) == 1e-12


def test_a_direction_stands_for_its_outputs() -> None:
    assert tolerance_for("float32", "fwd") == tolerance_for("float32", "o")
    assert tolerance_for("float32", "bwd") == tolerance_for("float32", "dv")
    assert tolerance_for("float32", "fwd_bwd") == tolerance_for("float32", "dv")


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(v=1e30),
        Sizes(v=1e-30, do=1e-6),
        Sizes(q=1e20, k=1e-20),
        Sizes(q=1e-20, k=1e20, do=1e8),
        Sizes(q=1e-30, k=1e-30),
        Sizes(q=1e-30, k=1e-30, v=1e-30, do=1e-30),
        Sizes(q=10.0, k=10.0),
        Sizes(scale=30.0),
    ],
    ids=str,
)
def test_float32_arithmetic_stays_within_the_tolerance_of_its_sizes(sizes: Sizes) -> None:
    """The textbook formula, each step rounded to float32, on inputs far from standard normal."""
    problem = AttentionProblem.of(
        60, seqlen_k=70, head_dim=32, dtype="float32", softmax_scale=sizes.scale / np.sqrt(32)
    )
    q, k, v, do = (np.float32(size) * x for x, size in zip(problem.make_inputs(5), sizes[:4], strict=True))
    with np.errstate(under="ignore"):
        s = np.float32(problem.scale) * (q @ k.swapaxes(2, 3))
        p = np.exp(s - s.max(axis=3, keepdims=True))
        row_sum = p.sum(axis=3, keepdims=True)
        lse = (s.max(axis=3, keepdims=True) + np.log(row_sum))[..., 0]
        p /= row_sum
        o = p @ v
        ds = p * (do @ v.swapaxes(2, 3) - (do * o).sum(axis=3, keepdims=True))
        dq = np.float32(problem.scale) * ds @ k
        dk = np.float32(problem.scale) * ds.swapaxes(2, 3) @ q
        dv = p.swapaxes(2, 3) @ do
    expected = (*attention_reference(problem, q, k, v), *attention_backward_reference(problem, do, q, k, v))
    for what, actual, exact in zip(OUTPUTS, (o, lse, dq, dk, dv), expected, strict=True):
        assert actual.dtype == np.float32
        assert_close(actual, exact, tolerance_for("float32", what, seqlen_q=60, sizes=sizes))
