"""One comparison of an engine with the oracle where features are on: every output, both ways back."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from support import assert_close

from flashbench.engines import Engine, Forward, Settings
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import attention_backward_reference, attention_reference
from flashbench.tolerances import tolerance_for

# Each feature as fields of a problem of 3 sequences of up to 37 queries and 45 keys.
FEATURES: dict[str, dict[str, Any]] = {
    "window": {"window": (11, 6)},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "bool-mask": {"mask": "bool", "mask_axes": "bqk"},
    "float-mask": {"mask": "float", "mask_axes": "hqk"},
    "block-mask": {"mask": "block", "mask_axes": "hqk"},
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
    """Grouped heads of different sizes, odd lengths; rows that see no key where that can be."""
    chosen = {key: value for name in combination.split("+") for key, value in FEATURES[name].items()}
    shape = {"batch": 3, "seqlen_k": 45, "num_heads": 4, "num_kv_heads": 2, "head_dim": 11, "head_dim_v": 7}
    return AttentionProblem.of(37, **{**shape, **chosen, **fields})


def poisoned(problem: AttentionProblem, seed: int = 0, share: float = 0.05) -> Inputs:
    """Inputs of which some rows, with a value of NaN somewhere, may be hidden from some others or all."""
    inputs = problem.make_inputs(seed)
    rng = np.random.default_rng((seed, 3))
    for x in inputs:
        rows = x.reshape(-1, x.shape[-1])
        rows[rng.random(len(rows)) < share, rng.integers(x.shape[-1])] = np.nan
    return inputs


def assert_features_are_exact(
    engine: Engine,
    problem: AttentionProblem,
    extras: Extras,
    settings: Settings | None = None,
    *,
    inputs: Inputs | None = None,
) -> None:
    """Assert o, lse, dq, dk, dv, dsinks and dmask against the oracle, from what the forward kept and from o
    and lse alone.

    Dropout makes the kept probabilities larger, and what follows from them.
    """
    settings = settings or Settings()
    q, k, v, do = inputs or problem.make_inputs()
    o, lse = attention_reference(problem, q, k, v, extras)
    expected = attention_backward_reference(problem, do, q, k, v, extras)
    grown = 1 / (1 - problem.dropout)
    sizes = {
        "heads_per_key": problem.num_heads // problem.num_kv_heads,
        "seqlen_q": problem.seqlen_q,
        "seqlen_k": 1,  # a mask may leave just one
    }
    kept = engine.forward(problem, settings, q, k, v, extras=extras, keep=True)
    alone = engine.forward(problem, settings, q, k, v, extras=extras)
    for forward in (kept, alone):
        assert_close(forward.o, o, grown * tolerance_for(problem.dtype, "o"))
        assert forward.lse is not None
        assert_close(forward.lse, lse, tolerance_for(problem.dtype, "lse"))
    for forward in (kept, Forward(alone.o, alone.lse)):
        actual = engine.backward(problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=True)
        for what in ("dq", "dk", "dv"):
            tolerance = grown**2 * tolerance_for(problem.dtype, what, **sizes)
            assert_close(getattr(actual, what), getattr(expected, what), tolerance)
        for array, right in ((actual.dsinks, expected.dsinks), (actual.dmask, expected.dmask)):
            assert (array is None) == (right is None)
            if array is None or right is None:
                continue
            assert array.dtype == q.dtype
            rows = problem.num_heads * problem.query_rows  # that may have been added up
            tolerance = grown**2 * tolerance_for(problem.dtype, "dq") * math.sqrt(problem.head_dim_v * rows)
            assert_close(array, right, tolerance)
        plain = engine.backward(problem, settings, do, q, k, v, forward, extras=extras)
        assert plain.dmask is None
        for what in ("dq", "dk", "dv"):
            assert_close(
                getattr(plain, what),
                getattr(expected, what),
                grown**2 * tolerance_for(problem.dtype, what, **sizes),
            )
