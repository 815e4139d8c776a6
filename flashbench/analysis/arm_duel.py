"""Two attentions of a file of whole models as duels: its rounds were measured in turns, so they pair.

The statistics are those of `flashbench duel` with one look. Nothing is measured: the file's rounds are all
there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from flashbench.analysis.groups import grouped
from flashbench.analysis.verdict import ALPHA, between_engines, judge, sides_verdict, undecided
from flashbench.analysis.whole_models import ModelRow, model_rows, place_key
from flashbench.analysis.words import counted
from flashbench.errors import ConfigError
from flashbench.measure.statistics import (
    Interval,
    holm,
    least_pairs,
    paired_ratio,
    process_medians,
    sign_flip_p,
)
from flashbench.measure.timing import turn_order
from flashbench.results.record import Duel, InferenceTest, Results, TrainingStep, Verdict


class _Sides(NamedTuple):
    """The rows of A and B in the same work, and the other attentions' that took turns with them."""

    a: ModelRow
    b: ModelRow
    arms: list[str]  # in the file's order

    @property
    def log_ratios(self) -> list[float]:
        """ln(B / A) of each round that both have; empty if a side is not right."""
        rows = self.a, self.b
        if any(row.status != "ok" or row.time is None for row in rows):
            return []
        a, b = (process_medians(row.time.samples_ns) for row in rows if row.time)
        # An interrupted run may have one process more of an attention.
        return [math.log(late / early) for early, late in zip(a, b, strict=False)]


def duel_of_arms(results: Results, a: str, b: str, threshold: float) -> Results:
    """The file's rows of attentions a and b as a file of kind "duel": B against A in each work and place.

    Raises ConfigError if the file has no row of one of them, or never both in the same work.
    """
    rows = model_rows(results)
    known = list(dict.fromkeys(row.attention for row in rows))
    for attention in (a, b):
        if attention not in known:
            raise ConfigError(f"the file has no attention {attention!r}; it has {', '.join(known)}")
    if a == b:
        raise ConfigError(f"A and B are both {a}: name two of {', '.join(known)}")
    sides = _sides(rows, a, b)
    if not sides:
        raise ConfigError(f"the file has {a} and {b}, but never in the same work")
    return msgspec.structs.replace(
        results,
        kind="duel",
        config={
            **{side: {"engine": name, "python": None, "path": None} for side, name in (("a", a), ("b", b))},
            "threshold": threshold,
            "looks": 1,
            "study": results.config,
        },
        training=[row for pair in sides for row in pair[:2] if isinstance(row, TrainingStep)],
        inference=[row for pair in sides for row in pair[:2] if isinstance(row, InferenceTest)],
        duels=_duels(sides, threshold),
    )


def _sides(rows: Sequence[ModelRow], a: str, b: str) -> list[_Sides]:
    found = []
    for alike in grouped(rows, place_key).values():
        by_arm = {row.attention: row for row in alike}
        if a in by_arm and b in by_arm:
            timed = [row.attention for row in alike if row.time is not None]
            found.append(_Sides(by_arm[a], by_arm[b], timed))
    return found


def _duels(sides: Sequence[_Sides], threshold: float) -> list[Duel]:
    p_values = [sign_flip_p(pair.log_ratios) if pair.log_ratios else None for pair in sides]
    adjusted = iter(holm([p for p in p_values if p is not None]))
    tests = sum(p is not None for p in p_values)
    return [
        _duel(pair, 2 * number, p, None if p is None else next(adjusted), tests, threshold)
        for number, (pair, p) in enumerate(zip(sides, p_values, strict=True))
    ]


def _duel(
    pair: _Sides, place: int, p_value: float | None, p_holm: float | None, tests: int, threshold: float
) -> Duel:
    logs = pair.log_ratios
    interval = paired_ratio(logs) if logs else None
    verdict, reason = sides_verdict(pair.a, pair.b)
    if verdict is None:
        verdict, reason = _judged(len(logs), interval, p_holm, tests, threshold)
    return Duel(
        a=place,
        b=place + 1,
        ratio=interval and interval.ratio,
        low=interval and interval.low,
        high=interval and interval.high,
        confidence=1 - ALPHA if interval else None,
        p_value=p_value,
        p_holm=p_holm,
        threshold=threshold,
        orders=["ab" if _leads(pair, number) else "ba" for number in range(len(logs))],
        looks=1,
        verdict=verdict,
        reason=reason,
    )


def _judged(
    rounds: int, interval: Interval | None, p_holm: float | None, tests: int, threshold: float
) -> tuple[Verdict, str | None]:
    if interval is None or p_holm is None:
        return "inconclusive", "time not measured"
    needed = least_pairs(ALPHA / tests)
    if rounds < needed:
        return "inconclusive", (
            f"{counted(rounds, 'round')} cannot exclude chance in {counted(tests, 'test')}: "
            f"--resume --rounds {needed} measures more"
        )
    verdict = between_engines(judge(interval, p_holm, threshold))
    return verdict, undecided(rounds, interval) if verdict == "inconclusive" else None


def _leads(pair: _Sides, number: int) -> bool:
    """Whether A ran before B in that round, in which all attentions took their turns."""
    order = [pair.arms[place] for place in turn_order(len(pair.arms), number)]
    return order.index(pair.a.attention) < order.index(pair.b.attention)
