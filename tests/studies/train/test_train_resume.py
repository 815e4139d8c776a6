"""An interrupted training run measures only what is missing, and refuses results of another run."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from helpers import fake_steps

from flashbench.errors import ResultsError
from flashbench.integrations.forecasting import models
from flashbench.results.record import Results
from flashbench.studies.progress import Progress
from flashbench.studies.runner import Interrupted
from flashbench.studies.train import TrainStudy, run, workload

STUDY = TrainStudy(
    models=["patchtst"],
    attentions=["standard", "flash"],
    context_lengths=[96, 112],
    threads=1,
    rounds=2,
    data="synthetic",
)


@pytest.fixture(autouse=True)
def _fake_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[run.__module__], "_MODULES", ())
    monkeypatch.setattr(workload, "FACTORY", fake_steps.FACTORY)
    monkeypatch.setattr(models, "check_installed", lambda *packages: None)


def cut_after(steps: int, study: TrainStudy = STUDY, earlier: Results | None = None) -> Results:
    """The results that a run keeps if it is interrupted after that many steps."""

    def interrupt(step: Progress) -> None:
        if step.done == steps:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(study, command=[], on_progress=interrupt, earlier=earlier)
    return msgspec.json.decode(msgspec.json.encode(caught.value.results), type=Results)


@pytest.mark.parametrize("steps", [2, 4, 7, 11])
def test_only_what_is_missing_is_measured(steps: int) -> None:
    """Four points: four steps of memory, then two rounds of four."""
    earlier = cut_after(steps)
    assert not earlier.complete
    seen: list[str] = []
    results = run(STUDY, command=[], earlier=earlier, on_progress=lambda step: seen.append(step.label))
    timed = [label for label in seen if "time, round" in label]
    assert len(timed) == 8 - max(0, steps - 4)
    assert results.complete
    for row in results.training:
        assert (row.status, len(row.processes)) == ("ok", 2)
        assert row.time is not None
        assert len(row.time.samples_ns) == 2
        assert (row.forward_ns, row.attention_share, row.losses) == (4.0, 0.3, [1.0, 0.9])
        assert (row.parameters, row.series, row.attention_calls) == (7, 1, 3)
    for before in earlier.training:
        (after,) = [
            row
            for row in results.training
            if (row.attention, row.context_length) == (before.attention, before.context_length)
        ]
        assert after.peak_bytes == before.peak_bytes
        kept = [] if before.time is None else before.time.samples_ns
        assert after.time is not None
        assert after.time.samples_ns[: len(kept)] == kept
    assert set(results.processes) == {"standard", "flash"}


def test_what_crashed_is_tried_again_and_what_was_wrong_is_judged_again() -> None:
    study = msgspec.structs.replace(
        STUDY, context_lengths=[fake_steps.KILLED, fake_steps.OTHER_LOSS], memory=False
    )
    whole = run(study, command=[])
    assert [row.status for row in whole.training] == ["ok", "crashed", "ok", "wrong"]
    seen: list[str] = []
    again = run(study, command=[], earlier=whole, on_progress=lambda step: seen.append(step.label))
    assert [row.status for row in again.training] == ["ok", "crashed", "ok", "wrong"]
    assert [label for label in seen if "time" in label] == ["PatchTST, context 64, flash: time, round 1 of 2"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"horizon": 12}, "horizon was 24, now it is 12"), ({"windows": 2}, "windows was 4, now it is 2")],
)
def test_a_run_of_other_settings_is_refused_by_name(changed: Any, said: str) -> None:
    earlier = cut_after(2)
    with pytest.raises(ResultsError, match=f"of another study: {said}"):
        run(msgspec.structs.replace(STUDY, **changed), command=[], earlier=earlier)


def test_a_file_of_another_kind_is_refused_and_not_replaced() -> None:
    earlier = msgspec.structs.replace(cut_after(2), kind="duel", config={})
    with pytest.raises(ResultsError, match="the file to go on with holds a duel, not a train"):
        run(STUDY, command=[], earlier=earlier)
