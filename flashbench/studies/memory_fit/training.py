"""Answers the documented question "Can Train?": whether a training step fits in memory, for each engine."""

from __future__ import annotations

from typing import NamedTuple

from flashbench.engines import get_outline
from flashbench.problem import AttentionProblem
from flashbench.studies.memory_fit.fits import TrainingFit, training_fit
from flashbench.studies.study import Study


class TrainingRow(NamedTuple):
    """One problem, and each engine's fit; None if the engine cannot run it, or does not know its memory."""

    problem: AttentionProblem
    fits: dict[str, TrainingFit | None]


def training_rows(study: Study, budget_bytes: int) -> list[TrainingRow]:
    """Every problem of the study with every engine, at the study's first block size and path."""
    engines = {name: get_outline(name) for name in study.engines}
    return [
        TrainingRow(
            problem,
            {
                name: training_fit(problem, engine, study.settings(problem.dtype)[0], budget_bytes)
                for name, engine in engines.items()
            },
        )
        for problem in dict.fromkeys(point.problem for point in study.points())
    ]
