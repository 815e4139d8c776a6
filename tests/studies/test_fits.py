"""What fits is computed from what engines say they need."""

from __future__ import annotations

from typing import Any

import fake_engines
import pytest

from flashbench.engines import Settings
from flashbench.engines.numpy import NumpyEngine
from flashbench.engines.standard import StandardEngine
from flashbench.problem import AttentionProblem
from flashbench.studies.fits import predicted_bytes, training_fit

GIB = 1024**3
ONE = Settings(num_threads=1)


def test_prediction_counts_inputs_outputs_and_workspace() -> None:
    problem = AttentionProblem.of(1024)
    engine = StandardEngine()
    expected = 4 * 1024 * 64 * 8 + 1024 * 8 + engine.workspace_bytes(problem, "fwd", ONE)  # q k v o, lse
    assert predicted_bytes(problem, engine, "fwd", ONE) == expected


def test_backward_is_predicted_with_the_forward_before_it() -> None:
    problem = AttentionProblem.of(1024)
    both = predicted_bytes(problem, StandardEngine(), "fwd_bwd", ONE)
    assert predicted_bytes(problem, StandardEngine(), "bwd", ONE) == both


def test_engine_that_cannot_tell_its_workspace_counts_none() -> None:
    problem = AttentionProblem.of(64)
    expected = problem.input_bytes("fwd") + problem.output_bytes("fwd")
    assert predicted_bytes(problem, fake_engines.Untellable(), "fwd", ONE) == expected


@pytest.mark.parametrize("budget", [1000, 10**6, 16 * GIB])
@pytest.mark.parametrize("engine", [NumpyEngine(), StandardEngine()])
def test_longest_sequence_is_the_last_that_fits(engine: Any, budget: int) -> None:
    problem = AttentionProblem.of(2048, batch=8)
    fit = training_fit(problem, engine, ONE, budget)
    assert fit is not None

    def needed(seqlen: int) -> int:
        return predicted_bytes(AttentionProblem.of(seqlen, batch=8), engine, "fwd_bwd", ONE)

    assert fit.engine == engine.name
    assert fit.needed_bytes == needed(2048)
    assert fit.fits == (fit.longest_seqlen >= 2048)
    assert fit.longest_seqlen == 0 or needed(fit.longest_seqlen) <= budget
    assert needed(fit.longest_seqlen + 1) > budget


def test_training_of_an_engine_that_cannot_tell_is_unknown() -> None:
    problem = AttentionProblem.of(64)
    assert training_fit(problem, fake_engines.Untellable(), ONE, GIB) is None
    assert training_fit(problem, fake_engines.Unsupporting(), ONE, GIB) is None
