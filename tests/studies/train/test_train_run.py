"""An arm's failure is a row of the results, and the other arms are still measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_steps

from flashbench.errors import EngineError
from flashbench.integrations.forecasting import models
from flashbench.results.record import Results, TrainingStep
from flashbench.studies.arms.session import foretold_bytes
from flashbench.studies.nothing import NothingToMeasureError
from flashbench.studies.progress import Progress
from flashbench.studies.runner import failed
from flashbench.studies.train import TrainStudy, run, workload
from flashbench.studies.train.row import TrainRow
from flashbench.studies.train.study import TrainPoint


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    """Results of a study whose steps are fake, in real processes."""
    monkeypatch.setattr(sys.modules[run.__module__], "_MODULES", ())
    monkeypatch.setattr(workload, "FACTORY", fake_steps.FACTORY)
    monkeypatch.setattr(models, "check_installed", lambda *packages: None)

    def measure(on_progress: Callable[[Progress], None] = lambda _: None, **settings: Any) -> Results:
        chosen = {"models": ["patchtst"], "attentions": ["standard", "flash"], "threads": 1, "rounds": 1}
        study = TrainStudy(**(chosen | settings))
        return run(study, command=["flashbench", "train"], on_progress=on_progress)

    return measure


def by_place(results: Results) -> dict[tuple[int, str], TrainingStep]:
    return {(row.context_length, row.attention): row for row in results.training}


@pytest.mark.parametrize("memory", [True, False])
def test_failures_are_rows_and_the_rest_is_measured(measured, memory: bool) -> None:
    lengths = [fake_steps.UNSUPPORTED, fake_steps.RAISES, fake_steps.KILLED, fake_steps.OTHER_LOSS, 96]
    results = measured(context_lengths=lengths, memory=memory)
    rows = by_place(results)
    assert len(rows) == 10
    for attention in ("standard", "flash"):
        unsupported = rows[fake_steps.UNSUPPORTED, attention]
        assert unsupported.status == "unsupported"
        assert unsupported.reason == "there are 30 values, a window needs 32"
        good = rows[96, attention]
        assert good.status == "ok"
        assert good.time is not None
        assert good.parameters == 7
        assert good.losses == [1.0, 0.9]
        if memory:  # an array of that many doubles
            assert good.peak_bytes == pytest.approx(96**2 * 1024, rel=0.01)
    raising, killed = rows[fake_steps.RAISES, "flash"], rows[fake_steps.KILLED, "flash"]
    assert raising.status == "crashed"
    assert raising.reason == "ValueError: a model that raises"
    assert killed.status in ("crashed", "out_of_memory")
    assert "SIGKILL" in killed.reason
    assert killed.time is None
    wrong = rows[fake_steps.OTHER_LOSS, "flash"]
    assert wrong.status == "wrong"
    assert "loss 0.5 after 1 step, 0.9 in the arm" in wrong.reason
    assert all(
        rows[length, "standard"].status == "ok" for length in lengths if length != fake_steps.UNSUPPORTED
    )
    assert failed(results)
    assert results.complete


def test_what_would_not_fit_is_foretold_and_not_tried(measured) -> None:
    """512 values need 256 MiB, so 1024 would need 1 GiB."""
    results = measured(context_lengths=[512, 1024], memory_budget_bytes=512 * 1024**2)
    for attention in ("standard", "flash"):
        assert by_place(results)[512, attention].status == "ok"
        row = by_place(results)[1024, attention]
        assert row.status == "too_large"
        assert row.reason == "needs some 1.0 GiB, 512.0 MiB are there: foretold, not tried"
        assert row.time is None
    assert not failed(results)


def test_a_model_without_softmax_attention_is_no_process(measured) -> None:
    """`original` is still measured. A variant would be another model."""
    results = measured(models=["informer"], attentions=["flash", "original"], context_lengths=[96])
    flash, original = results.training
    assert (flash.status, flash.model) == ("unsupported", "Informer")
    assert "ProbSparse instead of softmax attention; --variant full-attention" in flash.reason
    assert original.status == "ok"
    variant = measured(models=["informer"], context_lengths=[96], variant="full-attention")
    assert {row.model for row in variant.training} == {"Informer (full attention)"}
    assert {row.status for row in variant.training} == {"ok"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"models": ["patchtst"], "data": "airpassengers", "context_lengths": [120]},
            "PatchTST: airpassengers has 144 values a series, 4 windows need 147: ask for shorter contexts",
        ),
        (
            {
                "models": ["informer"],
                "data": "synthetic",
                "context_lengths": [8192],
                "variant": "full-attention",
            },
            "Informer (full attention): Informer takes contexts up to 5000",
        ),
        (
            {"models": ["fedformer"], "attentions": ["flash"], "context_lengths": [96]},
            "FEDformer: Fourier block instead of softmax attention",
        ),
        (
            {
                "models": ["informer"],
                "attentions": ["original"],
                "context_lengths": [96],
                "variant": "full-attention",
            },
            "Informer: attention original is the model as shipped, --variant full-attention another model: ",
        ),
    ],
)
def test_a_study_of_which_nothing_can_be_trained_starts_no_process(
    measured, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(NothingToMeasureError) as caught:
        measured(**settings)
    assert str(caught.value).startswith(f"nothing can be measured: {said}")


def test_what_is_too_long_for_a_csv_is_told_beside_what_is_not(measured, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "mine.csv"
    days = [f"2020-{month:02}-{day:02}" for month in range(1, 7) for day in range(1, 29)]
    path.write_text("ds,y\n" + "".join(f"{day},1\n" for day in days))  # 168
    results = measured(attentions=["standard"], csv=str(path), context_lengths=[96, 192], memory=False)
    assert [row.status for row in results.training] == ["ok", "unsupported"]
    assert f"{path} has 168 values a series, 4 windows need 219" in results.training[1].reason
    assert not failed(results)


def test_arms_are_processes_of_their_own(measured) -> None:
    results = measured(context_lengths=[96], memory=False, rounds=2)
    assert set(results.processes) == {"standard", "flash"}
    assert all(len(row.time.samples_ns) == 2 for row in results.training)
    assert results.kind == "train"


def test_peaks_are_foretold_as_they_grew() -> None:
    """From one peak by the square. From several by the growth between the last two, but at least linearly."""

    def row(length: int, peak: int | None) -> TrainRow:
        point = TrainPoint("tft", length, "flash")
        return TrainRow(point=point, label="TFT", windows=4, threads=2, peak_bytes=peak)

    asked = row(400, None)
    assert foretold_bytes(asked, [asked]) == 0
    assert foretold_bytes(asked, [row(200, 1000), asked]) == 4000
    assert foretold_bytes(asked, [row(100, 500), row(200, 1000), asked]) == 2000
    assert foretold_bytes(asked, [row(100, 10), row(200, 1000), asked]) == 4000
    assert foretold_bytes(asked, [row(100, 1000), row(200, 1000), asked]) == 2000


def test_progress_says_how_long_is_left_from_the_second_step_on(measured) -> None:
    seen: list[Progress] = []
    measured(seen.append, context_lengths=[88, 96], rounds=2)
    assert [step.done for step in seen] == list(range(13))  # memory once and two rounds, of four points
    assert {step.total for step in seen} == {12}
    assert seen[0].left_s is None
    assert all(step.left_s is not None and step.left_s > 0 for step in seen[1:-1])
    assert seen[-1].left_s == 0
    assert seen[-2].left_s < seen[1].left_s


def test_steps_that_failed_are_not_still_to_come(measured) -> None:
    seen: list[Progress] = []
    measured(seen.append, context_lengths=[fake_steps.RAISES, 96], memory=False, rounds=2)
    last = [step for step in seen if "round 2" in step.label]
    assert [step.done for step in last] == [5, 6, 7]  # flash failed at one of two lengths


def test_arms_are_compared_whatever_stands_between_them(measured) -> None:
    """If a model has a variant, its `original` is another model, and is not tried next to the variant."""
    results = measured(
        models=["informer"],
        attentions=["standard", "original", "flash"],
        context_lengths=[fake_steps.OTHER_LOSS],
        variant="full-attention",
        memory=False,
    )
    assert [row.status for row in results.training] == ["ok", "unsupported", "wrong"]


def test_data_that_is_not_installed_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch", "neuralforecast"}
    monkeypatch.setattr(models, "find_spec", lambda name: True if name in there else None)
    with pytest.raises(EngineError, match="need vega_datasets, which is not installed"):
        run(TrainStudy(), command=[])
    there.discard("neuralforecast")
    with pytest.raises(EngineError, match="need neuralforecast, which is not installed") as error:
        run(TrainStudy(data="synthetic"), command=[])
    assert error.value.hint == "pip install 'flashbench[models]'"
