"""The best block size of a sweep, and what the documented recommendation costs beside it."""

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
    """One problem at every block size: its measurements, and the fastest of them."""

    problem: AttentionProblem
    points: Mapping[str, Measurement]  # by label: "64", "64 x 128", "auto"
    fastest: Measurement | None  # of all points; None when no point gave a right result
    best: Measurement | None  # of the fixed sizes

    def cost(self, label: str) -> float | None:
        """Time at that size over the best fixed size's time. None unless both were measured."""
        return time_ratio(self.points.get(label), self.best)

    def recommended_costs(self) -> list[float]:
        """`cost` of each recommended size that was measured."""
        costs = (self.cost(str(size)) for size in recommended_blocks(self.problem.seqlen_k))
        return [cost for cost in costs if cost is not None]

    def is_tie(self, label: str) -> bool:
        """Whether this point's quartiles overlap the fastest's: this run cannot separate them."""
        row = self.points.get(label)
        if row is None or row.time is None or self.fastest is None or self.fastest.time is None:
            return False
        return row.time.low_ns <= self.fastest.time.high_ns


def block_label(measurement: Measurement) -> str:
    """The block size asked for: `auto`, `64`, `64 x 128`. Empty for an engine without blocks."""
    asked = measurement.blocks_asked
    return "" if asked is None else AUTO if asked == AUTO else blocks_word(*asked)


def blocks_word(block_q: int, block_k: int, *, times: str = " x ") -> str:
    """`64` if both sizes are 64, otherwise `64 x 128`."""
    return str(block_q) if block_q == block_k else f"{block_q}{times}{block_k}"


def block_word(measurement: Measurement) -> str:
    """The size asked for, and the size used if it differs: `64`, `auto (8 x 48)`; empty without blocks."""
    label = block_label(measurement)
    if not label or measurement.block_q is None or measurement.block_k is None:
        return label
    used = blocks_word(measurement.block_q, measurement.block_k)
    return label if used == label else f"{label} ({used})"


def with_block(name: str, block: str) -> str:
    """`flash, block 64`, or the name alone without a block size."""
    return f"{name}, block {block}" if block else name


def has_blocks(measurements: Iterable[Measurement]) -> bool:
    """Whether the engine of these measurements has blocks."""
    return any(row.blocks_asked is not None for row in measurements)


def block_labels(rows: Iterable[Measurement]) -> list[str]:
    """The sizes measured, from small to large; `auto` comes last."""
    asked = {block_label(row): row.blocks_asked for row in rows if row.blocks_asked is not None}
    last = (math.inf, math.inf)
    return sorted(asked, key=lambda label: last if asked[label] == AUTO else asked[label])


def block_rows(measurements: Sequence[Measurement]) -> list[BlockRow]:
    """One row for each problem of one engine's measurements, in the order measured."""
    rows = []
    for problem in dict.fromkeys(row.problem for row in measurements):
        points = {block_label(row): row for row in measurements if row.problem == problem}
        fixed = [row for label, row in points.items() if label != AUTO]
        rows.append(BlockRow(problem, points, _fastest(points.values()), _fastest(fixed)))
    return rows


def _fastest(rows: Iterable[Measurement]) -> Measurement | None:
    timed = [(row.time.median_ns, row) for row in rows if row.time and row.status == "ok"]
    return min(timed, key=lambda pair: pair[0])[1] if timed else None
