"""Checks of engines in 16-bit dtypes: against float32 bit for bit, against the error of naive attention."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Engine, Settings
from flashbench.extras import Extras
from flashbench.kernels.products.paths import PATHS, obstacle
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import (
    attention_backward_reference,
    attention_reference,
    largest_error,
    largest_finite,
)
from flashbench.tolerances import Sizes, problem_tolerance
from helpers.naive_half import naive_attention
from helpers.support import assert_close

HALVES: tuple[Dtype, ...] = tuple(dtype for dtype, entry in DTYPES.items() if entry.tolerance == "halves")
# As in flash-attention's tests: how many times the naive error is allowed, and what is allowed always.
_TIMES = {"o": 2, "dq": 3, "dk": 3, "dv": 3, "dsinks": 3, "dmask": 3}
_ALWAYS = 1e-5
GRADIENTS = ("dq", "dk", "dv", "dsinks", "dmask")


def paths_of(dtype: Dtype) -> list[str]:
    """The paths of the dtype that can run here."""
    return [name for name, path in PATHS.items() if dtype in path.dtypes and obstacle(path) is None]


def numbers_of(problem: AttentionProblem, stored: Any) -> np.ndarray:
    """The numbers of a stored array, as float32."""
    return np.asarray(DTYPES[problem.dtype].view(stored))


def outputs_of(
    engine: Engine,
    problem: AttentionProblem,
    settings: Settings,
    inputs: Inputs,
    extras: Extras,
    *,
    keep: bool = True,
) -> dict[str, np.ndarray]:
    """Every output of the engine by name; those that the problem does not have are left out."""
    q, k, v, do = inputs
    forward = engine.forward(problem, settings, q, k, v, extras=extras, keep=keep)
    found: dict[str, Any] = {"o": forward.o, "lse": forward.lse}
    if engine.unsupported(problem, "bwd") is None:
        gradients = engine.backward(
            problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=True
        )
        found |= {name: getattr(gradients, name) for name in GRADIENTS}
    return {name: x for name, x in found.items() if x is not None}


def assert_float32_rounded(
    engine: Engine,
    problem: AttentionProblem,
    extras: Extras,
    settings: Settings,
    inputs: Inputs | None = None,
) -> None:
    """Assert that outputs are float32's outputs of the same numbers, rounded once: the same bits.

    lse, dsinks and dmask are float32 themselves. The backward in float32 gets the same o. A NaN may have any
    bits. For engines that compute 16-bit dtypes in float32, in the same order; settings.path: "convert".
    """
    entry, single = DTYPES[problem.dtype], msgspec.structs.replace(problem, dtype="float32")
    inputs = inputs or problem.make_inputs()
    q, k, v, do = inputs
    wide = [numbers_of(problem, x) for x in inputs]
    for keep in (False, True):
        forward = engine.forward(problem, settings, q, k, v, extras=extras, keep=keep)
        right = engine.forward(single, settings._replace(path=None), *wide[:3], extras=extras, keep=keep)
        pairs = {"o": (forward.o, right.o), "lse": (forward.lse, right.lse)}
        if engine.unsupported(problem, "bwd") is None:
            right = right._replace(o=numbers_of(problem, forward.o))
            gradients = engine.backward(
                problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=True
            )
            expected = engine.backward(
                single,
                settings._replace(path=None),
                wide[3],
                *wide[:3],
                right,
                extras=extras,
                mask_gradient=True,
            )
            pairs |= {name: (getattr(gradients, name), getattr(expected, name)) for name in GRADIENTS}
        for name, (actual, wanted) in pairs.items():
            assert (actual is None) == (wanted is None), name
            if name in ("lse", "dsinks", "dmask"):
                np.testing.assert_array_equal(actual, wanted, name, strict=True)
            else:
                assert actual.dtype == entry.storage, name
                with np.errstate(over="ignore"):
                    stored = entry.view(entry.make(wanted))
                np.testing.assert_array_equal(entry.view(actual), stored, name, strict=True)


def assert_as_exact_as_naive(
    engine: Engine,
    problem: AttentionProblem,
    extras: Extras,
    settings: Settings,
    inputs: Inputs | None = None,
) -> None:
    """Assert errors against the oracle: at most twice the naive error for o, three times for gradients.

    lse: float32's tolerance.
    """
    inputs = inputs or problem.make_inputs()
    q, k, v, do = inputs
    o, lse = attention_reference(problem, q, k, v, extras)
    found = outputs_of(engine, problem, settings, inputs, extras)
    expected: dict[str, Any] = {"o": o}
    if "dq" in found:
        gradients = attention_backward_reference(problem, do, q, k, v, extras)
        expected |= {name: getattr(gradients, name) for name in GRADIENTS if name in found}
    naive = naive_attention(problem, inputs, extras)
    for name, right in expected.items():
        actual = found[name] if name in ("dsinks", "dmask") else numbers_of(problem, found[name])
        limit = _TIMES[name] * largest_error(naive[name], right) + _ALWAYS
        assert np.isfinite(limit), f"the naive computation of {name} fails"
        assert largest_error(actual, right) <= limit, name
    if "lse" in found:
        assert found["lse"].dtype == np.float32
        sizes = Sizes(keys=1, q=_size(problem, q), k=_size(problem, k))
        single = msgspec.structs.replace(problem, dtype="float32")
        tolerance = problem_tolerance(single, "lse", sizes=sizes, largest_lse=largest_finite(lse))
        assert_close(found["lse"], lse, tolerance)


def _size(problem: AttentionProblem, x: np.ndarray) -> float:
    """The standard deviation of the numbers of x, at least 1."""
    return max(1.0, float(np.std(numbers_of(problem, x))))
