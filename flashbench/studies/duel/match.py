"""Both sides of a duel on one problem, their rounds, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from flashbench.analysis.verdict import between_engines, judge, sides_verdict, undecided
from flashbench.measure.statistics import Interval, paired_ratio, process_medians, sign_flip_p
from flashbench.results.record import Duel, Measurement, Side, Verdict
from flashbench.studies.duel.settings import SIDES, Contestant, DuelStudy
from flashbench.studies.resume import TRIED_AGAIN
from flashbench.studies.rows import Row, asked_blocks
from flashbench.studies.study import Point

Order = Literal["ab", "ba"]


def _of(side: Contestant, point: Point) -> Point:
    """The point as this side runs it."""
    path = side.path or point.settings.path
    return point._replace(engine=side.engine, settings=point.settings._replace(path=path))


class Match:
    """The rounds so far on one problem. It is decided once a look finds a verdict, or a side fails."""

    def __init__(self, point: Point, duel: DuelStudy, slot: str) -> None:
        """A match without rounds. slot: the problem's name in a worker."""
        self._duel = duel
        self.rows: dict[Side, Row] = {
            side: Row(_of(one, point), slot, side=side)
            for side, one in zip(SIDES, (duel.a, duel.b), strict=True)
        }
        self.orders: list[Order] = []
        self._looks = 0
        self._verdict: Verdict = "inconclusive"

    @property
    def both_ok(self) -> bool:
        """Whether both sides run, with correct results."""
        return all(row.status == "ok" for row in self.rows.values())

    @property
    def is_open(self) -> bool:
        """Whether more rounds could change the outcome."""
        return self.both_ok and self._verdict == "inconclusive"

    @property
    def looks(self) -> int:
        """The number of looks at the rounds so far."""
        return self._looks

    @property
    def p_value(self) -> float:
        """The sign-flip test's p-value for the hypothesis that the sides do not differ."""
        return sign_flip_p(self._log_ratios())

    @property
    def interval(self) -> Interval | None:
        """Ratio B / A and its bounds at the confidence of one look; None if a side has failed."""
        logs = self._log_ratios()
        return paired_ratio(logs, 1 - self._duel.alpha) if logs else None

    def is_of(self, a: Measurement) -> bool:
        """Whether a measurement of side A belongs to this match's problem."""
        point = self.rows["a"].point
        same = a.problem == point.problem and a.direction == point.direction
        return same and a.blocks_asked in (None, asked_blocks(point.settings))

    def restore(self, earlier: Duel, sides: Sequence[Measurement]) -> None:
        """Continue from an earlier run's rounds and looks. A match that failed by chance starts again."""
        times = [row.time.samples_ns if row.time else [] for row in sides]
        rounds = {len(processes) for row, processes in zip(sides, times, strict=True) if row.status == "ok"}
        if any(row.status in TRIED_AGAIN for row in sides) or not rounds <= {len(earlier.orders)}:
            return
        for side, measurement in zip(SIDES, sides, strict=True):
            row = self.rows[side]
            row.restore(measurement)
            if measurement.block_q is not None and measurement.block_k is not None:
                row.blocks = measurement.block_q, measurement.block_k
        self.orders = list(earlier.orders)
        self._looks = earlier.looks
        if self.both_ok:
            self._verdict = earlier.verdict

    def drop_unfinished_round(self) -> None:
        """Drop the times of a round that was cut short, as they lack the other side's times."""
        for row in self.rows.values():
            del row.samples[len(self.orders) :]

    def look(self, p_holm: float) -> None:
        """Judge the rounds so far. Call it only while the match is open: a found verdict must stay."""
        self._looks += 1
        interval = self.interval
        if interval is not None:
            verdict = judge(interval, p_holm, self._duel.threshold, self._duel.alpha)
            self._verdict = verdict if self._duel.of_versions else between_engines(verdict)

    def record(self, place: int, p_holm: float) -> Duel:
        """The record. place: index of A's measurement in the file; B's is the next one."""
        interval = self.interval
        verdict: Verdict | None = self._verdict
        reason = None
        if not self.both_ok:
            verdict, reason = sides_verdict(*(self.rows[side].measurement(None) for side in SIDES))
        elif interval is not None and verdict == "inconclusive":
            reason = undecided(len(self.orders), interval)
        return Duel(
            a=place,
            b=place + 1,
            ratio=interval and interval.ratio,
            low=interval and interval.low,
            high=interval and interval.high,
            confidence=1 - self._duel.alpha if interval else None,
            p_value=self.p_value if interval else None,
            p_holm=p_holm if interval else None,
            threshold=self._duel.threshold,
            orders=list(self.orders),
            looks=self._looks,
            verdict=verdict or "inconclusive",
            reason=reason,
        )

    def _log_ratios(self) -> list[float]:
        """ln(B / A) of each round; empty if a side has failed."""
        if not self.both_ok:
            return []
        a, b = (process_medians(self.rows[side].samples) for side in SIDES)
        return [math.log(late / early) for early, late in zip(a, b, strict=True)]
