"""Settings that a training study accepts and refuses, and the points that it spans."""

from __future__ import annotations

from typing import Any

import pytest

from flashbench.errors import ConfigError
from flashbench.studies.train import TrainStudy
from flashbench.studies.train.study import TrainPoint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": []}, "models must name at least one value"),
        ({"context_lengths": [64, 64]}, "context_lengths must name each value once, not 64, 64"),
        ({"attentions": ["flush"]}, "unknown attention 'flush'; known: flash, standard"),
        ({"data": "weather"}, "unknown data 'weather'; known: sf-temps, airpassengers, synthetic"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"windows": 0}, "windows must be at least 1, not 0"),
        ({"series": 0}, "series must be at least 1, not 0"),
        ({"patch_stride": 0}, "patch_stride must be at least 1, not 0"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"context_lengths": [8]}, "context_lengths must be at least 16, not 8"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"timeout_s": 0}, "timeout_s must be above 0 and finite, not 0"),
        ({"memory_budget_bytes": 0}, "memory_budget_bytes must be at least 1, not 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainStudy(**settings)


def test_arms_of_a_length_are_neighbours_and_lengths_grow() -> None:
    study = TrainStudy(models=["tft", "patchtst"], attentions=["flash", "standard"], context_lengths=[64, 32])
    assert study.points() == [
        TrainPoint(model, length, attention)
        for model in ("tft", "patchtst")
        for length in (32, 64)
        for attention in ("flash", "standard")
    ]
