"""Compares attention in 16-bit dtypes with the oracle: what its roundings explain, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.dtypes import DTYPES
from flashbench.engines import AttentionGradients, Forward, Settings
from flashbench.engines.flash.engine import FlashEngine
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference

FLASH = FlashEngine()


def size(x: NDArray[Any]) -> NDArray[Any]:
    """The numbers without their signs, in storage."""
    return (x.view(np.uint16) & 0x7FFF).view(x.dtype)


def outputs(
    problem: AttentionProblem, settings: Settings, inputs: Inputs, extras: Extras = NO_EXTRAS
) -> tuple[Forward, AttentionGradients]:
    """o, lse, and the gradients."""
    q, k, v, do = inputs
    forward = FLASH.forward(problem, settings, q, k, v, extras=extras)
    gradients = FLASH.backward(
        problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=problem.mask == "float"
    )
    return forward, gradients


def assert_close(actual: NDArray[Any], expected: NDArray[Any], tolerance: Any) -> None:
    """Finite in the same places, and there within a tolerance, which may be an array."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(actual), finite)
    error = np.abs(actual[finite] - expected[finite])
    assert np.all(error <= np.broadcast_to(tolerance, expected.shape)[finite]), error.max()


def assert_exact(
    problem: AttentionProblem,
    settings: Settings,
    *,
    extras: Extras = NO_EXTRAS,
    inputs: Inputs | None = None,
) -> None:
    """o and dv within what the rounding of p and of the result explains, everywhere; the rest by its size."""
    inputs = inputs or problem.make_inputs()
    dtype = DTYPES[problem.dtype]
    roundoff = dtype.unit_roundoff
    q, k, v, do = inputs
    forward, gradients = outputs(problem, settings, inputs, extras)
    o, lse = attention_reference(problem, q, k, v, extras)
    expected = attention_backward_reference(problem, do, q, k, v, extras)
    with np.errstate(invalid="ignore"):
        of_o, _ = attention_reference(problem, q, k, size(v), extras)
        of_dv = attention_backward_reference(problem, size(do), q, k, v, extras).dv
        assert_close(dtype.view(forward.o), o, 2.1 * roundoff * of_o + 1e-5)
        assert_close(dtype.view(gradients.dv), expected.dv, 2.1 * roundoff * of_dv + 1e-5)
        assert_close(forward.lse, lse, 4e-6 * np.maximum(1, np.abs(lse)))
    np.testing.assert_array_equal(forward.lse == -np.inf, lse == -np.inf)
    for name in ("dq", "dk", "dsinks", "dmask"):
        actual, wanted = getattr(gradients, name), getattr(expected, name)
        if wanted is None:
            continue
        numbers = dtype.view(actual) if actual.dtype == dtype.storage else actual
        largest = np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0)
        assert_close(numbers, wanted, 8 * roundoff * max(1.0, largest))
