"""Predicts whether the calls of a study fit in memory, forward and in training. It measures nothing."""

from __future__ import annotations

from collections.abc import Iterator

from flashbench.analysis.decoding import is_decoding
from flashbench.engines import Outline, get_outline, path_taken, refusal
from flashbench.problem import AttentionProblem, Direction
from flashbench.results.record import Record
from flashbench.studies.memory_fit.fits import predicted_bytes, training_fit
from flashbench.studies.study import Point, Study


class Fit(Record, frozen=True, kw_only=True):
    """The memory of one engine on one problem, for a forward or for a training step."""

    needed_bytes: int | None  # inputs, outputs and workspace; None: it cannot run, or is not known
    workspace_bytes: int | None  # part of needed_bytes
    fits: bool | None
    reason: str | None = None  # why it cannot run, in one line


class Prediction(Record, frozen=True, kw_only=True):
    """One engine on one problem."""

    problem: AttentionProblem
    engine: str
    block_q: int | None  # as in the study; None: the engine chooses, or has no blocks
    block_k: int | None
    path: str | None = None  # as in the study; None: the engine chooses, or has no paths
    forward: Fit
    training: Fit  # forward, which keeps what the backward needs, then backward
    longest_training_seqlen: int | None  # seqlen_q = seqlen_k


class Predictions(Record, frozen=True, kw_only=True):
    """Predictions for every problem, engine and block size of a study."""

    budget_bytes: int
    free: bool  # whether the budget is this machine's free memory, as the user gave none
    predictions: list[Prediction]


def predict(study: Study, budget_bytes: int, *, free: bool = False) -> Predictions:
    """Predict every problem of the study with every engine and block size. The study's directions are
    ignored.

    Raises EngineError if an engine is unknown, or its library is missing.
    """
    rows = list(_predictions(study, budget_bytes))
    return Predictions(budget_bytes=budget_bytes, free=free, predictions=rows)


def _predictions(study: Study, budget_bytes: int) -> Iterator[Prediction]:
    engines = {name: get_outline(name) for name in study.engines}
    predicted: set[Point] = set()
    for point in study.points():
        engine = engines[point.engine]
        settings = point.settings
        if (
            refusal(engine, point.problem, "fwd") is None
            and engine.blocks(point.problem, "fwd", settings) is None
        ):
            settings = settings._replace(block_q=None, block_k=None)
        if settings.path is not None:
            settings = settings._replace(path=path_taken(engine, point.problem, "fwd", settings))
        point = point._replace(direction="fwd", settings=settings)
        if point in predicted:
            continue
        predicted.add(point)
        # Decoding does not train, and has no square problem whose length could grow.
        decodes = is_decoding(point.problem)
        longest = None if decodes else training_fit(point.problem, engine, settings, budget_bytes)
        yield Prediction(
            problem=point.problem,
            engine=point.engine,
            block_q=settings.block_q,
            block_k=settings.block_k,
            path=settings.path,
            forward=_fit(point, engine, "fwd", budget_bytes),
            training=_fit(point, engine, "fwd_bwd", budget_bytes),
            longest_training_seqlen=None if longest is None else longest.longest_seqlen,
        )


def _fit(point: Point, engine: Outline, direction: Direction, budget_bytes: int) -> Fit:
    reason = refusal(engine, point.problem, direction)
    workspace = None if reason else engine.workspace_bytes(point.problem, direction, point.settings)
    if workspace is None:
        return Fit(needed_bytes=None, workspace_bytes=None, fits=None, reason=reason)
    needed = predicted_bytes(point.problem, engine, direction, point.settings)
    return Fit(needed_bytes=needed, workspace_bytes=workspace, fits=needed <= budget_bytes)
