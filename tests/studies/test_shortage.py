"""The message after a time budget has run out, for files of unfinished runs."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.fake_results import make_measurement, make_results, make_time
from msgspec.structs import replace

from flashbench.results.record import Measurement, Results
from flashbench.studies.shortage import shortage_lines
from flashbench.studies.study import Study

STUDY = Study(kind="sweep", engines=["flash"], seq_lens=[64, 128], block_sizes=[32, "auto"], budget_s=1.0)
POINTS = [(64, 32), (64, None), (128, 32), (128, None)]


def measured(at: int, *, rounds: int = 2, **changes: Any) -> Measurement:
    row = make_measurement("flash", POINTS[at][0], block=POINTS[at][1])
    return replace(row, **{"time": make_time(1e6, processes=rounds), **changes})


def lines(*rows: Measurement, study: Study = STUDY) -> list[str]:
    results: Results = make_results(list(rows), kind="sweep")
    return shortage_lines(study, results)


def test_nothing_is_missing_where_all_is_there() -> None:
    assert lines(*map(measured, range(4))) == []


def test_points_without_a_time_are_named() -> None:
    assert lines(measured(0), measured(1)) == [
        "not measured, 2 of 4 points: flash fwd N=128, block 32; flash fwd N=128, block auto"
    ]


def test_points_with_fewer_rounds_are_named() -> None:
    rows = [measured(0, rounds=5), measured(1, rounds=1), measured(2), measured(3, rounds=1)]
    assert lines(*rows) == [
        "1 round only, where others have up to 5: flash fwd N=64, block auto; flash fwd N=128, block auto"
    ]


def test_points_without_their_memory_are_named_where_it_was_asked_for() -> None:
    rows = [measured(0), measured(1), measured(2), measured(3, memory=None)]
    assert lines(*rows) == ["timed without their memory, 1 of 4 points: flash fwd N=128, block auto"]
    assert lines(*rows, study=replace(STUDY, memory=False)) == []


def test_a_point_that_failed_is_not_missing() -> None:
    failed = measured(3, status="crashed", reason="killed by SIGSEGV", time=None, memory=None)
    assert lines(measured(0), measured(1), measured(2), failed) == []


def test_many_are_counted_after_the_first_few() -> None:
    study = replace(STUDY, seq_lens=list(range(1, 9)), causal=[False, True], block_sizes=["auto"])
    (line,) = lines(study=study)
    assert line.startswith("not measured, 16 of 16 points: flash fwd N=1, full, block auto; ")
    assert line.endswith("; and 10 more")


@pytest.mark.parametrize("name", ["dtypes", "heads", "head_dims"])
def test_what_the_study_has_several_of_tells_its_points_apart(name: str) -> None:
    values = {"dtypes": ["float32", "float64"], "heads": [1, 8], "head_dims": [32, 64]}[name]
    (line,) = lines(study=replace(STUDY, **{name: values}))
    assert len(set(line.partition(": ")[2].split("; "))) == 7  # six names, and how many more
