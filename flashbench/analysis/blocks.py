"""Which block size a sweep found best, and what the documented recommendation would have cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from flashbench.analysis.ratios import time_ratio
from flashbench.problem import AttentionProblem
from flashbench.results.record import Measurement

AUTO = "auto"


def recommended_blocks(seqlen: int) -> tuple[int, ...]:
    """The documented recommendation: 32 below 256, 64 up to 1024, 128 up to 2048, 64 to 128 above.

    >>> [recommended_blocks(seqlen) for seqlen in (128, 256, 1024, 2048, 4096)]
    [(32,), (64,), (64, 128), (128,), (64, 128)]
    """
    if seqlen < 256:
        return (32,)
    if seqlen < 1024:
        return (64,)
    # 1024 ends one documented range and begins the next.
    return (128,) if 1024 < seqlen <= 2048 else (64, 128)


class BlockRow(NamedTuple):
    """One problem at every block size: what was measured, and what was fastest."""

    problem: AttentionProblem
    points: Mapping[str, Measurement]  # by label: "64", "64 x 128", "auto"
    fastest: Measurement | None  # of all points; None when no point gave a right result
    best: Measurement | None  # of the fixed sizes

    def cost(self, label: str) -> float | None:
        """Time at that size over the best fixed size's; None when either was not measured."""
        return time_ratio(self.points.get(label), self.best)

    def recommended_costs(self) -> list[float]:
        """`cost` of each recommended size that was measured."""
        costs = (self.cost(str(size)) for size in recommended_blocks(self.problem.seqlen_k))
        return [cost for cost in costs if cost is not None]

    def is_tie(self, label: str) -> bool:
        """Whether that point's quartiles overlap the fastest one's: this run cannot tell them apart."""
        row = self.points.get(label)
        if row is None or row.time is None or self.fastest is None or self.fastest.time is None:
            return False
        return row.time.low_ns <= self.fastest.time.high_ns


def block_label(measurement: Measurement) -> str:
    """The block size that was asked for: `auto`, `64`, `64 x 128`; empty for an engine without blocks."""
    asked = measurement.blocks_asked
    return "" if asked is None else AUTO if asked == AUTO else blocks_word(*asked)


def blocks_word(block_q: int, block_k: int) -> str:
    """`64` where both are, else `64 x 128`."""
    return str(block_q) if block_q == block_k else f"{block_q} x {block_k}"


def has_blocks(measurements: Iterable[Measurement]) -> bool:
    """Whether these are of an engine that has blocks."""
    return any(row.blocks_asked is not None for row in measurements)


def block_labels(rows: Iterable[Measurement]) -> list[str]:
    """The sizes measured, from small to large, `auto` last."""
    asked = {block_label(row): row.blocks_asked for row in rows if row.blocks_asked is not None}
    last = (math.inf, math.inf)
    return sorted(asked, key=lambda label: last if asked[label] == AUTO else asked[label])


def block_rows(measurements: Sequence[Measurement]) -> list[BlockRow]:
    """One row per problem of one engine's measurements, in the order measured."""
    rows = []
    for problem in dict.fromkeys(row.problem for row in measurements):
        points = {block_label(row): row for row in measurements if row.problem == problem}
        fixed = [row for label, row in points.items() if label != AUTO]
        rows.append(BlockRow(problem, points, _fastest(points.values()), _fastest(fixed)))
    return rows


def _fastest(rows: Iterable[Measurement]) -> Measurement | None:
    timed = [(row.time.median_ns, row) for row in rows if row.time and row.status == "ok"]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None
