"""What fits is computed from the bytes that engines need."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from helpers import fake_engines

from flashbench.engines import Settings, get_engine
from flashbench.engines.peers.numpy import NumpyEngine
from flashbench.engines.standard import StandardEngine
from flashbench.problem import AttentionProblem, Feature
from flashbench.studies.memory_fit.fits import predicted_bytes, training_fit

GIB = 1024**3
ONE = Settings(num_threads=1)


def test_prediction_counts_inputs_outputs_and_workspace() -> None:
    problem = AttentionProblem.of(1024)
    engine = StandardEngine()
    expected = 4 * 1024 * 64 * 8 + 1024 * 8 + engine.workspace_bytes(problem, "fwd", ONE)  # q k v o, lse
    assert predicted_bytes(problem, engine, "fwd", ONE) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_halve_the_arrays_and_leave_lse_and_masks_in_float32(dtype: Any) -> None:
    problem = AttentionProblem.of(1024, dtype=dtype, mask="float", mask_axes="qk")
    engine = StandardEngine()
    workspace = engine.workspace_bytes(problem, "fwd", ONE)
    arrays = 4 * 1024 * 64 * 2 + 1024 * 4 + 1024 * 1024 * 4  # q k v o, lse, mask
    assert predicted_bytes(problem, engine, "fwd", ONE) == arrays + workspace


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


@pytest.mark.parametrize(
    ("mask", "axes", "expected"),
    [("bool", "qk", 256 * 256), ("float", "k", 256 * 8), ("float", "bhqk", 2 * 3 * 256 * 256 * 8)],
)
def test_a_mask_is_predicted_to_take_its_room(mask: Any, axes: str, expected: int) -> None:
    def needed(**features: Any) -> int:
        problem = AttentionProblem.of(256, batch=2, num_heads=3, **features)
        return predicted_bytes(problem, fake_engines.Untellable(), "fwd", ONE)

    assert needed(mask=mask, mask_axes=axes) - needed() == expected


class _Every(NumpyEngine):
    """An engine that accepts every feature, for predictions."""

    features = frozenset(get_args(Feature))

    def unsupported(self, problem: AttentionProblem, direction: Any) -> None:
        return None


@pytest.mark.parametrize("packed", [False, True])
def test_the_longest_of_several_lengths_keeps_their_shares(packed: bool) -> None:
    lengths = {"batch": 2, "key_lengths": (16, 64)} | ({"query_lengths": (16, 64)} if packed else {})
    fit = training_fit(AttentionProblem.of(64, **lengths), _Every(), ONE, 10**8)
    full = training_fit(AttentionProblem.of(64, batch=2), _Every(), ONE, 10**8)
    assert fit is not None
    assert full is not None
    assert fit.longest_seqlen >= full.longest_seqlen > 64


@pytest.mark.parametrize("engine", ["flash", "standard", "numpy"])
@pytest.mark.parametrize("lengths", [None, "keys", "packed"])
def test_a_batch_of_a_million_is_counted_by_its_lengths_and_not_sequence_by_sequence(
    engine: str, lengths: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needed(batch: int) -> int:
        several = (16, 64, 0, 3) * (batch // 4)
        features = {None: {}, "keys": {"key_lengths": several}}.get(
            lengths, {"key_lengths": several, "query_lengths": several}
        )
        fit = training_fit(
            AttentionProblem.of(64, batch=batch, num_heads=2, **features), get_engine(engine), ONE, 10**10
        )
        return 0 if fit is None else fit.needed_bytes

    def one_by_one(problem: AttentionProblem) -> Any:
        raise AssertionError("a million sequences, at every length that the search tries")

    monkeypatch.setattr(AttentionProblem, "sequences", one_by_one)
    fixed, each = needed(4), (needed(8) - needed(4)) // 4
    assert needed(10**6) == pytest.approx(fixed + each * (10**6 - 4), rel=1e-3)


def test_training_of_an_engine_that_cannot_tell_is_unknown() -> None:
    problem = AttentionProblem.of(64)
    assert training_fit(problem, fake_engines.Untellable(), ONE, GIB) is None
    assert training_fit(problem, fake_engines.Unsupporting(), ONE, GIB) is None
