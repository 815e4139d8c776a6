"""Runs of `tune` in real workers on tiny problems: what is kept, also after failures and interrupts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.tuned_entries import make_entry, write_table

from flashbench.engines.flash import tuned
from flashbench.engines.flash.block_sizes import Blocks
from flashbench.engines.flash.tuned import Key, read_entries
from flashbench.errors import ResultsError
from flashbench.studies import workload
from flashbench.studies.progress import Progress
from flashbench.studies.runner import run
from flashbench.studies.study import Study
from flashbench.studies.tune import contest
from flashbench.studies.tune import run as tune_run
from flashbench.studies.tune.keep import Outcome, Tuned, keep, make_writable, reset, shown
from flashbench.studies.tune.plan import Plan
from flashbench.studies.tune.run import Interrupted, tune

KEY = Key("float64", 64, False, "fwd", 10)


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {"dtypes": ["float32"], "causal": [False], "seq_lens": [256], "threads": 1}
    return Plan(**fields | changes)


@pytest.fixture(autouse=True)
def _quick(tuned_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_run, "PROCESSES", 2)
    monkeypatch.setattr(tune_run, "MOST_PROCESSES", 3)
    monkeypatch.setattr(contest, "BURST_NS", 0)
    monkeypatch.setattr(contest, "MOST_TURNS", 1)


def always_won(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep everything that is tried, because chance decides which of such similar sizes is fastest."""
    monkeypatch.setattr(contest.Duel, "open_heads", lambda self: [8, 1])
    monkeypatch.setattr("flashbench.studies.tune.keep.heads_won", lambda checks: 1)
    monkeypatch.setattr(tune_run, "fastest", lambda timer, key, problem, sizes, threads: sizes[-1])


@pytest.mark.grid
def test_a_run_judges_every_key_and_keeps_what_is_won(
    tuned_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_won(monkeypatch)
    steps: list[Progress] = []
    plan = make_plan(causal=[False, True])
    found = tune(plan, on_progress=steps.append)
    assert [outcome.key for outcome in found.outcomes] == plan.keys()
    assert found.exit_code == 0
    entries, ignored = read_entries(tuned_table)
    assert ignored is None
    assert {entry.key for entry in entries} == set(plan.keys())
    for entry in entries:
        assert entry.threads == 1
        assert {check.heads for check in entry.checks} == {1, 8}
        assert {check.seqlen for check in entry.checks} >= {256, 511}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)


def test_a_run_without_a_winner_keeps_nothing(tuned_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_run, "fastest", lambda timer, key, problem, sizes, threads: sizes[0])
    found = tune(make_plan())
    assert [(outcome.tried, outcome.heads_from) for outcome in found.outcomes] == [(None, None)] * 2
    assert not tuned_table.exists()


@pytest.mark.grid
def test_real_searches_end_with_one_of_the_candidates() -> None:
    found = tune(make_plan(directions=["bwd"]))
    (outcome,) = found.outcomes
    assert outcome.failure is None
    assert outcome.tried is None or outcome.checks


def test_ctrl_c_keeps_what_is_finished(tuned_table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    always_won(monkeypatch)

    def stop_at_the_second_group(step: Progress) -> None:
        if " bwd " in step.label:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        tune(make_plan(), on_progress=stop_at_the_second_group)
    assert [outcome.key.direction for outcome in stop.value.tuned.outcomes] == ["fwd"]
    assert stop.value.tuned.asked == 2
    assert [entry.direction for entry in read_entries(tuned_table)[0]] == ["fwd"]


def build_deadly(problem: dict[str, Any], direction: str, **rest: Any) -> workload.AttentionWorkload:
    if problem["causal"]:
        os._exit(3)
    return workload.build(problem, direction=direction, **rest)  # type: ignore[arg-type]


def test_a_process_that_dies_is_an_outcome_and_the_run_goes_on(
    tuned_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always_won(monkeypatch)
    monkeypatch.setattr(workload, "FACTORY", f"{__name__}:build_deadly")
    found = tune(make_plan(causal=[True, False], directions=["fwd"]))
    died, lived = found.outcomes
    assert died.failure == "left with exit code 0x3 in its first call"
    assert died.heads_from is None
    assert lived.heads_from == 1
    assert found.exit_code == 1
    assert [entry.causal for entry in read_entries(tuned_table)[0]] == [False]


def make_outcome(**changes: Any) -> Outcome:
    fields: dict[str, Any] = {"key": KEY, "tried": Blocks(32, 56), "heads_from": 1, "threads": 2}
    return Outcome(**fields | changes)


def test_a_rerun_updates_its_keys_and_leaves_the_others(tuned_table: Path) -> None:
    other = make_entry(causal=True)
    write_table(tuned_table, make_entry(), other)
    keep(tuned_table, [make_outcome()])
    entries, _ = read_entries(tuned_table)
    assert {entry.key: (entry.block_q, entry.block_k) for entry in entries} == {
        KEY: (32, 56),
        other.key: (13, 21),
    }


def test_what_is_no_longer_won_leaves_the_table(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry())
    keep(tuned_table, [make_outcome(heads_from=None)])
    assert read_entries(tuned_table) == ([], None)


def test_a_key_that_failed_keeps_what_it_had(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry())
    keep(tuned_table, [make_outcome(heads_from=None, failure="killed by SIGKILL in its first call")])
    assert read_entries(tuned_table) == ([make_entry()], None)


def test_a_damaged_table_is_replaced(tuned_table: Path) -> None:
    tuned_table.parent.mkdir()
    tuned_table.write_text("{")
    with pytest.warns(RuntimeWarning, match="is damaged"):
        keep(tuned_table, [make_outcome()])
    assert [entry.key for entry in read_entries(tuned_table)[0]] == [KEY]


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("FLASHBENCH_TUNED_DIR", str(tmp_path / "a-file" / "tuned"))
    steps: list[Progress] = []
    with pytest.raises(ResultsError, match="cannot make") as caught:
        tune(make_plan(), on_progress=steps.append)
    assert caught.value.hint == "set FLASHBENCH_CACHE_DIR to a directory that can be written"
    assert steps == []


def test_a_directory_in_place_of_the_table_is_refused(tuned_table: Path) -> None:
    tuned_table.mkdir(parents=True)
    with pytest.raises(ResultsError, match="it is a directory"):
        make_writable(tuned_table)


def test_what_is_shown_is_what_the_table_holds(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry())
    found = shown()
    assert found == Tuned(
        path=str(tuned_table),
        cpu=tuned.this_cpu(),
        asked=1,
        outcomes=[
            Outcome(
                key=KEY, tried=Blocks(13, 21), heads_from=1, threads=4096, checks=list(make_entry().checks)
            )
        ],
    )


def test_reset_deletes_the_table_in_any_state_or_says_that_there_is_none(tuned_table: Path) -> None:
    assert reset() is None
    tuned_table.parent.mkdir()
    tuned_table.write_text("{")
    assert reset() == tuned_table
    assert not tuned_table.exists()


def test_auto_of_a_worker_process_is_what_the_table_says(tuned_table: Path) -> None:
    write_table(tuned_table, make_entry(block_q=512, block_k=512))
    (row,) = run(
        Study(engines=["flash"], seq_lens=[512], repeats=1, rounds=1, check=False), command=[]
    ).measurements
    assert (row.blocks_asked, row.block_q, row.block_k) == ("auto", 512, 512)
    # The workspace measured in the worker: scores of 512 x 512, not those of the built-in tile.
    assert row.memory is not None
    assert row.memory.workspace_peak_bytes > 512 * 512 * 8


def test_a_full_disk_keeps_the_old_table_and_leaves_nothing(tuned_table: Path, files_of_at_most: Any) -> None:
    write_table(tuned_table, make_entry())
    before = tuned_table.read_bytes()
    with files_of_at_most(100), pytest.raises(ResultsError, match="cannot write"):
        keep(tuned_table, [])
    assert tuned_table.read_bytes() == before
    assert list(tuned_table.parent.iterdir()) == [tuned_table]
