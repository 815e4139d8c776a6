"""Shared by tests of exactness: one comparison, whose failure says where and by how much."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from flashbench.engines import ENGINES, Engine, Settings
from flashbench.problem import AttentionProblem
from flashbench.reference import attention_backward_reference, attention_reference, largest_error, worst_place
from flashbench.tolerances import tolerance_for


def assert_close(actual: NDArray[np.floating], expected: NDArray[np.floating], tolerance: float) -> None:
    """Assert |actual - expected| <= tolerance everywhere, with NaN and infinities in the same places."""
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    error = largest_error(actual, expected)
    if error <= tolerance:
        return
    worst = worst_place(actual, expected)
    raise AssertionError(
        f"error {error:.3g} is above {tolerance:.3g}: {actual[worst]!r} is not {expected[worst]!r} at {worst}"
    )


def assert_engine_is_exact(
    engine: Engine, problem: AttentionProblem, settings: Settings | None = None, *, seed: int = 0
) -> None:
    """Assert o, lse and the gradients of standard normal inputs against the oracle, with p kept and not kept.

    lse is checked if the engine gives it, gradients if it has a backward.
    """
    settings = settings or Settings()
    q, k, v, do = problem.make_inputs(seed)
    o, lse = attention_reference(problem, q, k, v)
    gradients = attention_backward_reference(problem, do, q, k, v)
    heads = problem.num_heads // problem.num_kv_heads
    for keep in (False, True):
        forward = engine.forward(problem, settings, q, k, v, keep=keep)
        assert forward.o.dtype == q.dtype
        assert_close(forward.o, o, tolerance_for(problem.dtype, "o"))
        if forward.lse is not None:
            assert forward.lse.dtype == q.dtype
            assert_close(forward.lse, lse, tolerance_for(problem.dtype, "lse"))
        if engine.unsupported(problem, "bwd"):
            continue
        for what, actual, expected in zip(
            ("dq", "dk", "dv"),
            engine.backward(problem, settings, do, q, k, v, forward),
            gradients,
            strict=True,
        ):
            assert actual.dtype == q.dtype
            tolerance = tolerance_for(
                problem.dtype,
                what,
                heads_per_key=heads,
                seqlen_q=problem.seqlen_q,
                seqlen_k=problem.seqlen_k,
            )
            assert_close(actual, expected, tolerance)


# The kernel of hf-kernel is the user's; `helpers.hf_kernels` makes some.
OF_LIBRARIES = [name for name in ENGINES if name != "hf-kernel"]


def available_engines() -> list[str]:
    """The built-in engines whose libraries are installed, for tests of every engine."""
    return [name for name in OF_LIBRARIES if ENGINES[name].extra is None or find_spec(ENGINES[name].library)]
