"""A time budget: how much is left, and which rows another round should measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from flashbench.measure.statistics import spread
from flashbench.studies.rows import Row

# An uncertainty of a median, as a share of it, below which another round gains nothing.
SURE_ENOUGH = 0.001


class Budget:
    """Seconds from now on."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self._end = time.monotonic() + seconds
        self.start_s = 0.0  # how long the last round's processes took to start

    @property
    def left_s(self) -> float:
        """Seconds left; negative when the budget is used up."""
        return self._end - time.monotonic()

    def worth_another_round(self, rows: Sequence[Row], seconds: Callable[[Row], float | None]) -> list[Row]:
        """Rows of the next round, in their order. Problems with the largest uncertainty per second are chosen
        first, as many as fit into the time left. Engines and block sizes of a problem stay together, because
        they are compared with each other.
        """
        groups = [
            list(group)
            for _, group in groupby(rows, key=lambda row: (row.point.problem, row.point.direction))
        ]
        costs = {id(group): sum(seconds(row) or 0.0 for row in group) for group in groups}
        worth = {id(group): max(map(uncertainty, group)) for group in groups}
        groups.sort(key=lambda group: worth[id(group)] / max(1e-9, costs[id(group)]), reverse=True)
        left = self.left_s - self.start_s
        chosen: set[Row] = set()
        for group in groups:
            if worth[id(group)] > SURE_ENOUGH and costs[id(group)] <= left:
                chosen.update(group)
                left -= costs[id(group)]
        return [row for row in rows if row in chosen]


def uncertainty(row: Row) -> float:
    """Half the interquartile range of all samples over their median and over the square root of the number of
    processes: a rough standard error, good enough to choose rows by.
    """
    found = spread([sample for process in row.samples for sample in process])
    return (found.high - found.low) / 2 / found.median / math.sqrt(len(row.samples))
