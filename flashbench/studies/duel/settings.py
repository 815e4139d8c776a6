"""The settings of a duel, and how many rounds can decide it."""

from __future__ import annotations

import math

import msgspec

from flashbench.analysis.verdict import ALPHA
from flashbench.analysis.words import counted
from flashbench.errors import ConfigError
from flashbench.measure.statistics import smallest_sign_flip_p
from flashbench.results.record import Side
from flashbench.studies.engine_list import PROBE_TIMEOUT_S
from flashbench.studies.study import Point, Study

SIDES: tuple[Side, Side] = ("a", "b")
LOOKS = 3
# Seven pairs that all point one way have p = 2 / 2^7, below the 5 % / 3 of a look.
LEAST_ROUNDS = 7


class Contestant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side: an engine, in this environment or in that of another interpreter."""

    engine: str
    python: str | None = None


class DuelStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of `duel`. Of `study` the problems, blocks, threads and ways of measuring count."""

    a: Contestant
    b: Contestant
    study: Study
    threshold: float = 0.05
    rounds: int | None = None  # between two looks; None: as few as can decide
    looks: int = LOOKS
    load_timeout_s: float = PROBE_TIMEOUT_S  # for a side's engine to load; a burst has the study's

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
        """Whether the sides are one engine, in two environments; else they are two engines."""
        return self.a.engine == self.b.engine

    @property
    def alpha(self) -> float:
        """The chance of error that one look is allowed."""
        return ALPHA / self.looks

    @property
    def rounds_per_look(self) -> int:
        """As asked, or as few as can decide."""
        return self.rounds or least_rounds(len(self.points()), self.looks)

    def points(self) -> list[Point]:
        """What both sides are timed on, as points of A."""
        return msgspec.structs.replace(self.study, engines=[self.a.engine]).points()


def least_rounds(problems: int, looks: int) -> int:
    """The fewest rounds after which the sign-flip test, adjusted for the number of problems, can reject.

    >>> least_rounds(1, 3), least_rounds(12, 3)
    (7, 11)
    """
    rounds = LEAST_ROUNDS
    while problems * smallest_sign_flip_p(rounds) > ALPHA / looks:
        rounds += 1
    return rounds
