"""Questions to an engine beside its failed case: does a row read what it does not see, do sums saturate?"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np

from flashbench.dtypes import DTYPES, NARROWEST_FIRST, is_half
from flashbench.engines import Array, Engine, Settings, refusal
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference

# A sum of ones in bfloat16 stops at 256, in float16 at 2,048.
_FEW_KEYS, _MANY_KEYS = 8, 8192
_SATURATED = 0.2  # as a share
_ALIKE = 8.0  # errors of one precision differ by less than this


def sees(problem: AttentionProblem, inputs: Inputs, extras: Extras, place: tuple[int, ...]) -> Any:
    """(sequences or 1, key heads, keys) as k has them: True where this row of o sees the key.

    place: of a number of o. Found from the oracle's gradient by v, of this row alone, with equal scores and
    without dropout: then weights are 0 where a pair is hidden only.
    """
    _, k, v, do = (np.nan_to_num(DTYPES[problem.dtype].view(x).astype(np.float64)) for x in inputs)
    row = np.zeros_like(do)
    row[place[:3]] = 1.0
    plain = msgspec.structs.replace(problem, dropout=0.0, alibi=False, softcap=None)
    shown = extras._replace(alibi_slopes=None)
    if isinstance(extras.mask, np.ndarray) and problem.mask == "float":
        shown = shown._replace(mask=np.where(np.isneginf(extras.mask), -np.inf, 0.0))
    gradients = attention_backward_reference(plain, row, np.zeros(inputs.q.shape), k, v, shown)
    return (gradients.dv != 0).any(-1)


def leaks(
    engine: Engine,
    problem: AttentionProblem,
    settings: Settings,
    inputs: Inputs,
    extras: Extras,
    place: tuple[int, ...],
    tolerance: float,
) -> bool:
    """Whether this row of o changes with keys and values that it does not see."""
    entry = DTYPES[problem.dtype]
    hidden = ~sees(problem, inputs, extras, place)[..., np.newaxis]
    if not hidden.any():
        return False
    others = []
    for number, x in enumerate(inputs[1:3]):
        other = np.random.default_rng(number).standard_normal(x.shape)
        others.append(entry.make(np.where(hidden, other, entry.view(x).astype(np.float64))))
    rows = []
    for k, v in ((inputs.k, inputs.v), others):
        found = engine.forward(problem, settings, inputs.q, k, v, extras=extras)
        rows.append(entry.view(found.o).astype(np.float64)[place[:3]])
    return bool(np.nanmax(np.abs(rows[0] - rows[1]), initial=0.0) > tolerance)


def saturates(engine: Engine, problem: AttentionProblem) -> bool:
    """Whether sums over many keys stop growing: the mean of ones is 1 for few keys, and not for many."""
    if not is_half(problem.dtype):
        return False
    few, many = _mean_of_ones(engine, problem, _FEW_KEYS), _mean_of_ones(engine, problem, _MANY_KEYS)
    if few is None or many is None:
        return False
    return bool((np.abs(few - 1.0) <= _SATURATED).all() and (np.abs(many - 1.0) > _SATURATED).any())


def _mean_of_ones(engine: Engine, problem: AttentionProblem, keys: int) -> Array | None:
    """o of equal scores and values of 1; None: the engine does not run that."""
    plain = AttentionProblem.of(1, seqlen_k=keys, dtype=problem.dtype, head_dim=8)
    if refusal(engine, plain, "fwd"):
        return None
    entry = DTYPES[problem.dtype]
    q, k, v = (
        entry.make(np.full(shape, value)) for shape, value in ((plain.q_shape, 0), *[(plain.k_shape, 1)] * 2)
    )
    o: Array | None = None
    with contextlib.suppress(Exception):  # then it fails for another reason
        o = entry.view(engine.forward(plain, Settings(), q, k, v).o).astype(np.float64)
    return o


def narrow_dtype(
    problem: AttentionProblem, inputs: Inputs, extras: Extras, values: Array, expected: Array
) -> str | None:
    """The dtype, narrower than the problem's, in which a computation of o has about such errors.

    Both the largest and the mean error have to be alike: one wrong number is something else.
    """
    errors = _errors(values, expected)
    for name in reversed(NARROWEST_FIRST):
        if DTYPES[name].unit_roundoff <= DTYPES[problem.dtype].unit_roundoff:
            continue
        o, _ = attention_reference(problem, *inputs[:3], extras, rounded_to=name)
        pairs = zip(_errors(o, expected), errors, strict=True)
        if all(naive / _ALIKE <= error <= naive * _ALIKE for naive, error in pairs):
            return name
    return None


def _errors(actual: Array, expected: Array) -> tuple[float, float]:
    """The largest and the mean, of numbers."""
    with np.errstate(invalid="ignore"):
        errors = np.abs(actual - expected)
    errors = errors[np.isfinite(errors)]
    return float(errors.max(initial=0.0)), float(errors.mean()) if errors.size else 0.0
