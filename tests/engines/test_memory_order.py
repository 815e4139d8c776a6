"""Results have their inputs' memory order: by heads, or by rows as in a model's projections."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.support import assert_close
from numpy.typing import NDArray

from flashbench.engines import AttentionGradients, Forward, Settings, get_engine
from flashbench.engines.standard import _plan
from flashbench.extras import make_extras
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import tolerance_for

WIDE_VALUES = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "head_dim_v": 24}
PROBLEMS = {
    "square": AttentionProblem.of(70, batch=2, num_heads=3, head_dim=16, causal=True),
    # Standard packs keys into o if o has no gaps. Both cases.
    "more queries": AttentionProblem.of(90, seqlen_k=40, **WIDE_VALUES),
    "more keys": AttentionProblem.of(20, seqlen_k=200, num_heads=2, head_dim=24, head_dim_v=8),
    "decoding": AttentionProblem.of(1, seqlen_k=300, num_heads=4, num_kv_heads=2, head_dim=32),
    "two queries": AttentionProblem.of(2, seqlen_k=300, batch=2, num_heads=4, head_dim=32),
    "key lengths": AttentionProblem.of(50, batch=2, num_heads=2, head_dim=16, key_lengths=(50, 7)),
    "mask, dropout": AttentionProblem.of(
        60, num_heads=3, head_dim=16, mask="float", mask_axes="hqk", dropout=0.2, sinks=True
    ),
}


def by_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same numbers, (batch, seqlen, heads, head_dim) in memory."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("engine", ["flash", "standard"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", PROBLEMS)
def test_results_have_the_order_of_their_inputs(engine: str, threads: int, name: str) -> None:
    problem, settings = PROBLEMS[name], Settings(num_threads=threads)
    chosen, extras = get_engine(engine), make_extras(PROBLEMS[name])
    q, k, v, do = problem.make_inputs()

    def run(*arrays: NDArray[np.floating]) -> tuple[Forward, AttentionGradients]:
        forward = chosen.forward(problem, settings, *arrays[:3], extras=extras, keep=True)
        return forward, chosen.backward(problem, settings, arrays[3], *arrays[:3], forward, extras=extras)

    plain = run(q, k, v, do)
    viewed = run(*map(by_rows, (q, k, v, do)))
    expected = attention_reference(problem, q, k, v, extras)[0]
    gradients = attention_backward_reference(problem, do, q, k, v, extras)
    for forward, found in (plain, viewed):
        assert_close(forward.o, expected, tolerance_for(problem.dtype, "o"))
        for actual, gradient in zip(found, gradients, strict=False):
            assert_close(actual, gradient, 1e-10)
    for x in (plain[0].o, *plain[1]):
        assert x.flags.c_contiguous
    for x in (viewed[0].o, *viewed[1]):
        assert x.transpose(0, 2, 1, 3).flags.c_contiguous


def test_standard_packs_keys_where_no_other_head_does() -> None:
    """Into a head of o that has its own memory. In the other order, heads share memory and would collide."""
    problem = AttentionProblem.of(128, num_heads=32, head_dim=64)
    settings = Settings(num_threads=2)
    assert not _plan(problem).packs_apart
    q, k, v, _ = problem.make_inputs()
    expected = get_engine("standard").forward(problem, settings, q, k, v).o
    for _ in range(10):  # a collision happens only by chance
        o = get_engine("standard").forward(problem, settings, by_rows(q), k, v).o
        assert o.transpose(0, 2, 1, 3).flags.c_contiguous
        assert np.array_equal(o, expected)


def test_standard_packs_values_where_no_other_head_does() -> None:
    """Into a head of dv that has its own memory."""
    problem = AttentionProblem.of(128, num_heads=32, head_dim=64)
    standard, settings = get_engine("standard"), Settings(num_threads=2)
    q, k, v, do = problem.make_inputs()
    forward = standard.forward(problem, settings, q, k, v, keep=True)
    expected = standard.backward(problem, settings, do, q, k, v, forward)
    for _ in range(10):
        found = standard.backward(problem, settings, do, *map(by_rows, (q, k, v)), forward)
        for actual, gradient in zip(found, expected, strict=True):
            assert np.array_equal(actual, gradient)


@pytest.mark.parametrize("engine", ["flash", "standard"])
def test_heads_that_share_memory_get_gradients_of_their_own(engine: str) -> None:
    """A stride of 0 is neither order. Results are then by heads, and not broadcast."""
    problem = AttentionProblem.of(20, num_heads=3, head_dim=8)
    q, k, v, do = problem.make_inputs()
    k, v = (np.broadcast_to(x[:, :1], x.shape) for x in (k, v))
    chosen, settings = get_engine(engine), Settings(num_threads=2)
    forward = chosen.forward(problem, settings, q, k, v, keep=True)
    found = chosen.backward(problem, settings, do, q, k, v, forward)
    for actual, gradient in zip(found, attention_backward_reference(problem, do, q, k, v), strict=False):
        assert actual.flags.c_contiguous
        assert_close(actual, gradient, 1e-10)
