"""A resumed run measures only what is missing, and refuses results of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import fake_engines

from flashbench.errors import ResultsError
from flashbench.measure.worker import Worker
from flashbench.results.record import Results
from flashbench.studies.runner import run
from flashbench.studies.study import Study

STUDY = Study(engines=["Right"], seq_lens=[24, 25, 26], repeats=2, rounds=2, threads=1)


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engines.make_known(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A complete run."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("plugins")
        fake_engines.make_known(directory, patch)
        return run(STUDY, command=[])


def cut(results: Results, *, rounds: int, rows: int, memory: int) -> Results:
    """The results as if the run had been killed after that many rounds, in the last after some rows."""
    kept = []
    for place, row in enumerate(results.measurements):
        assert row.time is not None
        samples = row.time.samples_ns[: rounds + (place < rows)]
        time = msgspec.structs.replace(row.time, samples_ns=samples) if samples else None
        if time is not None:
            kept.append(
                msgspec.structs.replace(row, time=time, memory=row.memory if place < memory else None)
            )
    return msgspec.structs.replace(results, measurements=kept, complete=False)


@pytest.mark.grid
def test_a_file_from_before_a_setting_existed_goes_on_with_its_default(whole: Results) -> None:
    older = {name: value for name, value in whole.config.items() if name not in ("windows", "softcap")}
    earlier = msgspec.structs.replace(cut(whole, rounds=1, rows=0, memory=0), config=older)
    assert run(STUDY, command=[], earlier=earlier).complete
    capped = msgspec.structs.replace(STUDY, windows=[[4, "none"]])
    with pytest.raises(ResultsError, match=r"windows was \['none'\], now it is \[\[4, 'none'\]\]"):
        run(capped, command=[], earlier=earlier)


@pytest.mark.grid
@pytest.mark.parametrize(
    ("rounds", "rows", "memory", "bursts"),
    [(0, 1, 0, 5), (0, 3, 0, 3), (1, 2, 0, 1), (2, 0, 1, 0), (2, 0, 3, 0)],
)
def test_only_what_is_missing_is_measured(
    whole: Results, rounds: int, rows: int, memory: int, bursts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    time_burst = Worker.time

    def counted(worker: Worker, slot: str, *arguments: Any, **options: Any) -> Any:
        timed.append(slot)
        return time_burst(worker, slot, *arguments, **options)

    monkeypatch.setattr(Worker, "time", counted)
    earlier = cut(whole, rounds=rounds, rows=rows, memory=memory)
    results = run(STUDY, command=[], earlier=earlier)
    assert len([slot for slot in timed if slot.isdigit()]) == bursts  # the others are the hardware's limits
    assert results.complete
    for row, before in zip(results.measurements, whole.measurements, strict=True):
        assert row.time is not None
        assert before.time is not None
        assert len(row.time.samples_ns) == 2
        assert row.accuracy == before.accuracy
        assert row.memory is not None
    for row in earlier.measurements:
        (after,) = [each for each in results.measurements if each.problem == row.problem]
        assert row.time is not None
        assert after.time is not None
        assert after.time.samples_ns[: len(row.time.samples_ns)] == row.time.samples_ns


def test_a_run_of_other_settings_is_refused_by_name(whole: Results) -> None:
    longer = msgspec.structs.replace(STUDY, repeats=3)
    with pytest.raises(ResultsError, match="of another study: repeats was 2, now it is 3"):
        run(longer, command=[], earlier=whole)


def test_a_run_of_another_machine_is_refused(whole: Results) -> None:
    machine = msgspec.structs.replace(whole.machine, cpu="Another CPU")
    with pytest.raises(ResultsError, match="of another machine: Another CPU, this one is"):
        run(STUDY, command=[], earlier=msgspec.structs.replace(whole, machine=machine))


def test_more_rounds_may_be_asked_for_when_resuming(whole: Results) -> None:
    results = run(msgspec.structs.replace(STUDY, rounds=3), command=[], earlier=whole)
    assert all(row.time and len(row.time.samples_ns) == 3 for row in results.measurements)


def test_what_crashed_is_tried_again(whole: Results) -> None:
    rows = [
        msgspec.structs.replace(row, status="crashed", reason="killed", time=None)
        for row in whole.measurements
    ]
    results = run(STUDY, command=[], earlier=msgspec.structs.replace(whole, measurements=rows))
    assert {row.status for row in results.measurements} == {"ok"}


@pytest.mark.grid
def test_a_budget_times_every_point_once_before_any_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    study = msgspec.structs.replace(STUDY, budget_s=12.0, memory=False)
    results = run(study, command=[])
    assert results.complete
    counts = [len(row.time.samples_ns) for row in results.measurements if row.time]
    assert len(counts) == 3
    assert min(counts) >= 1
    assert max(counts) >= 2


def test_a_budget_that_is_too_small_leaves_an_unfinished_run() -> None:
    results = run(msgspec.structs.replace(STUDY, budget_s=1e-3), command=[])
    assert not results.complete
    assert results.measurements == []
