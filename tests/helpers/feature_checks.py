"""Compares an engine with the oracle on problems with features: every output, and both kinds of backward."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from flashbench.dtypes import DTYPES
from flashbench.engines import Engine, Settings
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import Output, Sizes, problem_tolerance
from helpers.support import assert_close

# Each feature as fields of a problem of 3 sequences of up to 37 queries and 45 keys.
FEATURES: dict[str, dict[str, Any]] = {
    "window": {"window": (11, 6)},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool", "mask_axes": "bqk"},
    "float-mask": {"mask": "float", "mask_axes": "hqk"},
    "block-mask": {"mask": "block", "mask_axes": "hqk", "mask_block_q": 5, "mask_block_k": 8},
    "key-lengths": {"key_lengths": (45, 0, 29)},
    "varlen": {"query_lengths": (37, 5, 12), "key_lengths": (20, 45, 3)},
    "dropout": {"dropout": 0.3, "dropout_seed": 2**63 + 5},
}


def feature_combinations() -> list[str]:
    """Names of single features and of every pair that a problem can have."""
    pairs = [
        f"{one}+{other}"
        for one, other in itertools.combinations(FEATURES, 2)
        if not FEATURES[one].keys() & FEATURES[other].keys()
    ]
    return [*FEATURES, *pairs]


def problem_with(combination: str, **fields: Any) -> AttentionProblem:
    """Grouped heads, head_dim_v unlike head_dim, odd lengths, and rows that see no key if features allow."""
    chosen = {key: value for name in combination.split("+") for key, value in FEATURES[name].items()}
    shape = {"batch": 3, "seqlen_k": 45, "num_heads": 4, "num_kv_heads": 2, "head_dim": 11, "head_dim_v": 7}
    return AttentionProblem.of(37, **{**shape, **chosen, **fields})


def poisoned(problem: AttentionProblem, seed: int = 0, share: float = 0.05) -> Inputs:
    """Inputs with NaN in some rows, which may be hidden from some other rows or from all."""
    inputs = problem.make_inputs(seed)
    nan = DTYPES[problem.dtype].make(np.array(np.nan))
    rng = np.random.default_rng((seed, 3))
    for x in inputs:
        rows = x.reshape(-1, x.shape[-1])
        rows[rng.random(len(rows)) < share, rng.integers(x.shape[-1])] = nan
    return inputs


def assert_features_are_exact(
    engine: Engine,
    problem: AttentionProblem,
    extras: Extras,
    settings: Settings | None = None,
    *,
    inputs: Inputs | None = None,
) -> None:
    """Assert o, lse, dq, dk, dv, dsinks and dmask against the oracle.

    The backward runs from what the forward kept and from only o and lse, with dmask and without. Gradients
    are checked if the engine has them.
    """
    settings = settings or Settings()
    q, k, v, do = inputs or problem.make_inputs()
    o, lse = attention_reference(problem, q, k, v, extras)
    largest = float(np.max(np.abs(lse[np.isfinite(lse)]), initial=0.0))

    def check(what: Output, actual: Any, expected: Any) -> None:
        assert (actual is None) == (expected is None), what
        if actual is not None:
            assert actual.dtype == q.dtype, what
            # A mask may leave only one key to a query.
            tolerance = problem_tolerance(problem, what, sizes=Sizes(keys=1), largest_lse=largest)
            assert_close(actual, expected, tolerance)

    backward = engine.unsupported(problem, "bwd") is None
    if backward:
        gradients = attention_backward_reference(problem, do, q, k, v, extras)
    kept = engine.forward(problem, settings, q, k, v, extras=extras, keep=True)
    alone = engine.forward(problem, settings, q, k, v, extras=extras)
    for forward in (kept, alone._replace(saved=None)):
        check("o", forward.o, o)
        check("lse", forward.lse, lse)
        for mask_gradient in (True, False) if backward else ():
            actual = engine.backward(
                problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=mask_gradient
            )
            check("dq", actual.dq, gradients.dq)
            check("dk", actual.dk, gradients.dk)
            check("dv", actual.dv, gradients.dv)
            check("dsinks", actual.dsinks, gradients.dsinks)
            check("dmask", actual.dmask, gradients.dmask if mask_gradient else None)
