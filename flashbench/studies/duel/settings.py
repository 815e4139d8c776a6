"""The settings of a duel, and the number of rounds that can decide it."""

from __future__ import annotations

import math

import msgspec

from flashbench.analysis.verdict import ALPHA
from flashbench.analysis.words import counted
from flashbench.errors import ConfigError
from flashbench.measure.statistics import least_pairs
from flashbench.results.record import Side
from flashbench.studies.engine_list import PROBE_TIMEOUT_S
from flashbench.studies.study import Point, Study

SIDES: tuple[Side, Side] = ("a", "b")
LOOKS = 3
# Seven rounds with the same winner have p = 2 / 2^7, below one look's share of 5 % / 3.
LEAST_ROUNDS = 7


class Contestant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side: an engine, in this environment or in another interpreter's."""

    engine: str
    python: str | None = None
    path: str | None = None  # None: the study's


class DuelStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `duel`. It uses the problems, blocks, threads and measuring settings of `study`."""

    a: Contestant
    b: Contestant
    study: Study
    threshold: float = 0.05
    rounds: int | None = None  # rounds between two looks; None: the fewest that can decide
    looks: int = LOOKS
    load_timeout_s: float = PROBE_TIMEOUT_S  # for loading a side's engine; bursts have the study's timeout

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise ConfigError(f"threshold must be above 0, not {self.threshold:g}")
        if self.looks < 1:
            raise ConfigError(f"looks must be at least 1, not {self.looks}")
        problems = len(self.points())
        least = least_rounds(problems, self.looks)
        if self.rounds is not None and self.rounds < least:
            raise ConfigError(
                f"rounds must be at least {least} for {counted(problems, 'problem')} and "
                f"{counted(self.looks, 'look')}, not {self.rounds}: fewer can never exclude chance"
            )

    @property
    def of_versions(self) -> bool:
        """Whether the sides are the same engine and path in two environments."""
        return self.a.engine == self.b.engine and self.a.path == self.b.path

    @property
    def alpha(self) -> float:
        """The allowed chance of error of one look."""
        return ALPHA / self.looks

    @property
    def rounds_per_look(self) -> int:
        """`rounds`, or the fewest that can decide."""
        return self.rounds or least_rounds(len(self.points()), self.looks)

    def points(self) -> list[Point]:
        """The points on which both sides are timed, with A's engine."""
        return msgspec.structs.replace(self.study, engines=[self.a.engine]).points()


def least_rounds(problems: int, looks: int) -> int:
    """The fewest rounds after which the sign-flip test, adjusted for the number of problems, can reject.

    >>> least_rounds(1, 3), least_rounds(12, 3)
    (7, 11)
    """
    return max(LEAST_ROUNDS, least_pairs(ALPHA / looks / problems))
