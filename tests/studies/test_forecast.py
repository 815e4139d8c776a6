"""A forecast knows nothing at first. It learns from finished steps, and scales their times by operations."""

from __future__ import annotations

import pytest

from flashbench.studies.forecast import Forecast, Step


def test_nothing_is_known_before_the_first_step() -> None:
    assert Forecast().seconds(Step("time", "a", 100)) is None
    assert Forecast().total([Step("time", "a", 100)]) is None
    assert Forecast().total([]) == 0


def test_a_step_that_comes_again_takes_what_it_took_last() -> None:
    forecast = Forecast()
    forecast.learn(Step("time", "a", 100), 2.0)
    forecast.learn(Step("time", "a", 100), 3.0)
    assert forecast.seconds(Step("time", "a", 100)) == 3.0


def test_a_new_step_is_in_proportion_to_its_operations_above_what_all_take() -> None:
    forecast = Forecast()
    forecast.learn(Step("time", "small", 10), 1.0)
    forecast.learn(Step("time", "large", 1000), 11.0)
    assert forecast.seconds(Step("time", "twice", 2000)) == pytest.approx(1 + 10 * 2)
    assert forecast.seconds(Step("time", "tiny", 1)) == pytest.approx(1.01)


def test_a_kind_not_met_yet_is_taken_for_like_the_others() -> None:
    forecast = Forecast()
    forecast.learn(Step("time", "a", 100), 2.0)
    assert forecast.seconds(Step("memory", "a", 100)) == 2.0
    assert forecast.total([Step("time", "a", 100), Step("memory", "a", 100)]) == 4.0
