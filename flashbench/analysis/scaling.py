"""Scaling curves: one measurement repeated with several numbers of threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flashbench.analysis.groups import grouped
from flashbench.analysis.ratios import time_ratio
from flashbench.results.record import Measurement


def alike(row: Measurement) -> tuple[object, ...]:
    """What tells a measurement from the others of its file, except its number of threads."""
    return row.problem, row.engine, row.direction, row.blocks_asked, row.path_asked, row.side


def has_scaling(rows: Iterable[Measurement]) -> bool:
    """Whether any measurement was repeated with another number of threads."""
    return bool(bases(rows))


def bases(rows: Iterable[Measurement]) -> dict[tuple[object, ...], Measurement]:
    """The measurement with the fewest threads of each curve, by `alike`."""
    curves = grouped((row for row in rows if row.threads is not None), alike)
    return {
        key: min(curve, key=_threads)
        for key, curve in curves.items()
        if len({row.threads for row in curve}) > 1
    }


def speed_up(row: Measurement, base: Measurement | None) -> float | None:
    """Time of the base over that of the row; None unless both were measured and right."""
    return time_ratio(base, row)


def efficiency(row: Measurement, base: Measurement | None) -> float | None:
    """The speed-up as a share of the threads' ratio: 1 if twice the threads take half of the time."""
    ratio = speed_up(row, base)
    if ratio is None or base is None:
        return None
    return ratio * _threads(base) / _threads(row)


def with_most_threads(rows: Sequence[Measurement]) -> list[Measurement]:
    """The rows without those of a curve that have fewer threads than its last point."""
    last = {key: max(map(_threads, curve)) for key, curve in grouped(rows, alike).items()}
    return [row for row in rows if _threads(row) == last[alike(row)]]


def _threads(row: Measurement) -> int:
    return row.threads or 0
