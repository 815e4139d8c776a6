"""The first workload of each side of a duel, in the side's own environment.

It asks whether the engine loads, which problems it refuses, and how much memory each would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from flashbench.engines import Settings, get_engine, refusal
from flashbench.errors import EngineError
from flashbench.problem import AttentionProblem
from flashbench.studies.memory_fit.fits import predicted_bytes
from flashbench.studies.study import Point

FACTORY = f"{__name__}:build"


class Admitted(NamedTuple):
    """A side's answers. The lists have one entry per problem."""

    error: str | None = None  # why its engine does not load; the lists are then empty
    hint: str | None = None
    refusals: Sequence[str | None] = ()
    needed_bytes: Sequence[int] = ()


def arguments(points: Sequence[Point], engine: str) -> dict[str, Any]:
    """The arguments with which `build` asks `engine` about these points, in another process."""
    asked = [
        {
            "problem": msgspec.to_builtins(point.problem),
            "direction": point.direction,
            "settings": point.settings.arguments(),
        }
        for point in points
    ]
    return {"engine": engine, "asked": asked}


def build(engine: str, asked: list[dict[str, Any]]) -> Admission:
    """The workload of `arguments`."""
    return Admission(engine, asked)


class Admission:
    """A workload whose description is an `Admitted`."""

    def __init__(self, engine: str, asked: list[dict[str, Any]]) -> None:
        self._admitted = Admitted()
        try:
            loaded = get_engine(engine)
        except EngineError as error:
            self._admitted = Admitted(error=str(error), hint=error.hint)
            return
        refusals, needed = [], []
        for one in asked:
            problem = msgspec.convert(one["problem"], AttentionProblem)
            direction, settings = one["direction"], Settings(**one["settings"])
            refusals.append(refusal(loaded, problem, direction))
            refused = refusals[-1] is not None
            needed.append(0 if refused else predicted_bytes(problem, loaded, direction, settings))
        self._admitted = Admitted(refusals=refusals, needed_bytes=needed)

    def call(self) -> None:
        """Do nothing: no engine is called before all sides are admitted."""

    def forget(self) -> None:
        """Do nothing: nothing is kept."""

    def check(self) -> dict[str, Any]:
        """Return no facts: nothing was computed."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The fields of `Admitted`."""
        return self._admitted._asdict()
