"""Checks of engines in 16-bit dtypes: against float32 bit for bit, against the error of naive attention."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

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
from helpers.feature_problems import random_extras
from helpers.naive_half import naive_attention

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


class Yardstick(NamedTuple):
    """A problem's inputs, the oracle's outputs, and how far an output may be from them."""

    inputs: Inputs
    extras: Extras
    exact: dict[str, np.ndarray]
    limits: dict[str, float]


@functools.lru_cache(maxsize=4)  # engines and paths in turn are compared with it
def yardstick(problem: AttentionProblem, size: float = 1.0) -> Yardstick:
    """size: multiplies the inputs."""
    entry, extras = DTYPES[problem.dtype], random_extras(problem)
    inputs = Inputs(*(entry.make(size * entry.view(x)) for x in problem.make_inputs()))
    q, k, v, do = inputs
    o, lse = attention_reference(problem, q, k, v, extras)
    exact = {"o": o, "lse": lse}
    if problem.page_size is None:
        gradients = attention_backward_reference(problem, do, q, k, v, extras)
        exact |= {name: x for name in GRADIENTS if (x := getattr(gradients, name)) is not None}
    naive = naive_attention(problem, inputs, extras)
    limits = {name: _TIMES[name] * largest_error(x, exact[name]) + _ALWAYS for name, x in naive.items()}
    assert np.isfinite(list(limits.values())).all(), "the naive computation overflows"
    single = msgspec.structs.replace(problem, dtype="float32")
    sizes = Sizes(keys=1, q=size, k=size)
    limits["lse"] = problem_tolerance(single, "lse", sizes=sizes, largest_lse=largest_finite(lse))
    return Yardstick(inputs, extras, exact, limits)


def assert_as_exact_as_naive(
    engine: Engine, problem: AttentionProblem, settings: Settings, size: float = 1.0
) -> None:
    """Assert errors against the oracle: at most twice the naive error for o, three times for gradients.

    lse, dsinks and dmask must be float32, and lse within float32's tolerance. Features are random.
    """
    expected = yardstick(problem, size)
    found = outputs_of(engine, problem, settings, expected.inputs, expected.extras)
    backward = engine.unsupported(problem, "bwd") is None
    assert found.keys() == (expected.exact.keys() if backward else {"o", "lse"})
    for name, actual in found.items():
        if name in ("lse", "dsinks", "dmask"):
            assert actual.dtype == np.float32, name
        else:
            actual = numbers_of(problem, actual)
        assert largest_error(actual, expected.exact[name]) <= expected.limits[name], name
