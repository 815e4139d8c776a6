"""The table of features agrees with the problem, the study and itself."""

from __future__ import annotations

from typing import get_args

import pytest

from flashbench.analysis.problem_words import feature_words
from flashbench.features import FEATURES, OPTIONS
from flashbench.problem import AttentionProblem, Feature
from flashbench.studies.study import Study


def test_the_table_has_every_feature() -> None:
    assert sorted(FEATURES) == sorted(get_args(Feature))


@pytest.mark.parametrize("option", OPTIONS.values(), ids=list(OPTIONS))
def test_an_option_sets_a_key_of_a_study_and_fields_of_the_problem(option) -> None:
    assert option.key in Study.__struct_fields__
    assert set(option.fields) <= set(AttentionProblem.__struct_fields__)


@pytest.mark.parametrize("name", FEATURES)
def test_a_probe_has_its_feature_on_and_alone(name: Feature) -> None:
    for sizes in FEATURES[name].probes.values():
        problem = AttentionProblem.of(16, **sizes)
        assert problem.features == {name}
        assert feature_words(problem) == [FEATURES[name].words(problem, "")]
        assert all(part and "/" not in part for part in FEATURES[name].name(problem))
