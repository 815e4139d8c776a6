"""Parts of a study: together they are the study, and no comparison crosses them."""

from __future__ import annotations

import pytest
from helpers.fake_results import make_results
from msgspec.structs import replace

from flashbench.studies.cluster.parts import AnyStudy, is_of, is_whole, parts_of
from flashbench.studies.infer import InferStudy
from flashbench.studies.study import Study
from flashbench.studies.train import TrainStudy

STUDIES: list[AnyStudy] = [
    Study(engines=["flash", "numpy"], seq_lens=[64, 16, 32], causal=[False, True], directions=["fwd", "bwd"]),
    Study(kind="sweep", seq_lens=[128], block_sizes=["auto", 16, 32]),
    Study(decode=True, seq_lens=[128, 256], queries=2, causal=[True]),
    TrainStudy(models=["tft", "patchtst"], context_lengths=[48, 96]),
    InferStudy(models=["llama-160m", "mistral-160m"], depths=[0, 128]),
]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.kind)
def test_parts_have_every_point_of_the_study_once(study: AnyStudy) -> None:
    points = [point for part in parts_of(study) for point in part.study.points()]
    assert sorted(map(repr, points)) == sorted(map(repr, study.points()))


def test_all_that_is_compared_with_each_other_is_in_one_part() -> None:
    parts = parts_of(STUDIES[0])
    assert [part.name for part in parts] == ["N=64", "N=16", "N=32"]
    for part in parts:
        found = {(point.engine, point.problem.causal, point.direction) for point in part.study.points()}
        assert len(found) == 8


def test_the_whole_study_is_one_part() -> None:
    (part,) = parts_of(STUDIES[0], whole=True)
    assert part.study == STUDIES[0]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.kind)
def test_results_are_of_the_part_whose_settings_they_have(study: AnyStudy) -> None:
    import msgspec

    parts = parts_of(study)
    for part in parts:
        task = replace(make_results([]), kind=study.kind, config=msgspec.to_builtins(part.study))
        assert [is_of(task, other) for other in parts] == [other is part for other in parts]
        assert is_whole(task, part)
        assert not is_whole(replace(task, complete=False), part)
        more = part._replace(study=replace(part.study, rounds=part.study.rounds + 1))
        assert not is_whole(task, more)
