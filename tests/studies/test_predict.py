"""Predictions of what fits: sums that can be checked by hand, and a budget that decides to the byte."""

from __future__ import annotations

import pytest

from flashbench.errors import UnsupportedError
from flashbench.studies.memory_fit import predict as predicting
from flashbench.studies.memory_fit.predict import Predictions, predict
from flashbench.studies.study import Study

MIB = 1024**2


def one_length(budget_bytes: int, engine: str = "standard") -> Predictions:
    return predict(Study(seq_lens=[4096], heads=[8], engines=[engine]), budget_bytes)


def test_standard_attention_needs_its_scores_and_its_arrays() -> None:
    """8 heads of 4096 x 64 in float64: 16 MiB per array, 1024 MiB of scores, twice that in a backward."""
    (row,) = one_length(16 * 1024 * MIB).predictions
    assert row.forward.needed_bytes is not None
    assert row.training.needed_bytes is not None
    assert 1024 * MIB + 4 * 16 * MIB <= row.forward.needed_bytes <= 1100 * MIB
    assert 2 * 1024 * MIB + 8 * 16 * MIB <= row.training.needed_bytes <= 2300 * MIB
    assert (row.forward.fits, row.training.fits) == (True, True)


def test_flash_needs_little_beside_its_arrays() -> None:
    (row,) = one_length(1, engine="flash").predictions
    assert row.forward.needed_bytes is not None
    assert row.forward.workspace_bytes is not None
    assert row.forward.needed_bytes - row.forward.workspace_bytes == 4 * 16 * MIB + 8 * 4096 * 8  # and lse
    assert row.forward.workspace_bytes < MIB
    assert (row.forward.fits, row.training.fits) == (False, False)


def test_each_path_has_its_own_workspace_and_engines_without_paths_one_row() -> None:
    study = Study(
        seq_lens=[4096], dtypes=["bfloat16"], engines=["numpy", "flash"], paths=["convert", "amx-emulated"]
    )
    numpy, *flash = predict(study, 1).predictions
    assert (numpy.engine, numpy.path) == ("numpy", None)
    assert [(row.engine, row.path) for row in flash] == [("flash", "convert"), ("flash", "amx-emulated")]
    assert len({row.forward.workspace_bytes for row in flash}) == 2


@pytest.mark.parametrize("use", ["forward", "training"])
def test_the_budget_decides_to_the_byte(use: str) -> None:
    (row,) = one_length(1).predictions
    needed = getattr(row, use).needed_bytes
    for budget, fits in ((needed, True), (needed - 1, False)):
        (again,) = one_length(budget).predictions
        assert getattr(again, use).fits is fits


def test_the_longest_length_trains_and_the_next_does_not() -> None:
    budget = 1024 * MIB
    (row,) = one_length(budget).predictions
    assert row.longest_training_seqlen is not None
    for more, fits in ((0, True), (1, False)):
        study = Study(seq_lens=[row.longest_training_seqlen + more], heads=[8], engines=["standard"])
        assert predict(study, budget).predictions[0].training.fits is fits


def test_decoding_is_not_trained() -> None:
    study = Study(engines=["flash"], seq_lens=[64], causal=[False], decode=True, queries=1)
    (found,) = predict(study, 1024 * MIB).predictions
    assert found.forward.fits
    assert found.longest_training_seqlen is None


def test_lengths_directions_and_blocks_are_asked_once() -> None:
    study = Study(
        seq_lens=[64, 128], engines=["standard", "flash"], directions=["fwd", "bwd"], block_sizes=["auto", 32]
    )
    found = [(row.problem.seqlen_q, row.engine, row.block_q) for row in predict(study, MIB).predictions]
    assert sorted(found, key=str) == sorted(
        [(n, *rest) for n in (64, 128) for rest in (("standard", None), ("flash", None), ("flash", 32))],
        key=str,
    )


def test_an_engine_that_cannot_says_why_and_one_that_cannot_tell_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Odd:
        """Runs only the forward, and does not know its workspace."""

        name = "odd"
        features = frozenset()

        def unsupported(self, problem, direction):
            return None if direction == "fwd" else "it has no backward"

        def blocks(self, problem, direction, settings):
            return None

        def workspace_bytes(self, problem, direction, settings):
            if direction != "fwd":
                raise UnsupportedError("asked in spite of its refusal")

    monkeypatch.setattr(predicting, "get_outline", lambda name: Odd())
    (row,) = predict(Study(seq_lens=[64], engines=["odd"]), MIB).predictions
    assert (row.forward.needed_bytes, row.forward.fits, row.forward.reason) == (None, None, None)
    assert (row.training.fits, row.training.reason) == (None, "it has no backward")
    assert row.longest_training_seqlen is None
