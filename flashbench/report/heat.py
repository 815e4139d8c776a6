"""Heat of a block size: its time over the fastest of its row. The terminal and the chart both draw it."""

from __future__ import annotations

import math
from typing import NamedTuple

from flashbench.analysis.blocks import BlockRow
from flashbench.analysis.ratios import time_ratio
from flashbench.report.units import format_change

# The largest ratio to the fastest for each colour; the last takes all above.
HEAT_LIMITS = (1.02, 1.10, 1.25, 1.50, math.inf)


class Heat(NamedTuple):
    """One cell of a heatmap."""

    text: str  # `best`, `+12%`, or `~+1.5%` if this run cannot separate it from the fastest
    level: int  # place of its colour, from fast to slow
    best: bool


def heat_of(row: BlockRow, label: str) -> Heat | None:
    """The heat of the block size with that label. None without a right result and its time."""
    point = row.points.get(label)
    ratio = time_ratio(point, row.fastest)
    if ratio is None:
        return None
    level = next(level for level, limit in enumerate(HEAT_LIMITS) if ratio <= limit)
    if point is row.fastest:
        return Heat("best", level, best=True)
    return Heat(("~" if row.is_tie(label) else "") + format_change(ratio), level, best=False)
