"""Limits and ticks of axes: few, round, and no label over another."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.ticker import MaxNLocator

from flashbench.analysis.sizes import BYTE_UNITS

Interval = tuple[float, float]
MOST_TICKS = 6
# Two labels of four digits need this share of the axis between them.
LEAST_GAP = 0.13


def padded(values: Iterable[float], *, least: float = 4.0) -> Interval | None:
    """Limits around the values on a logarithmic axis, with a margin and at least `least` times apart.

    >>> padded([100.0, 100.0])
    (50.0, 200.0)
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    low, high = min(positive), max(positive)
    margin = max((high / low) ** 0.07, math.sqrt(max(1.0, least / (high / low))))
    return low / margin, high * margin


def from_zero(values: Iterable[float], *, before: float = 0.0) -> Interval:
    """Limits of a linear axis from 0 to above the largest value. before: room below 0, as a share of it.

    >>> from_zero([20.0, 50.0]), from_zero([0.0], before=0.05)
    ((0.0, 54.0), (-0.05, 1.08))
    """
    highest = max(values, default=0.0) or 1.0
    return -before * highest or 0.0, 1.08 * highest


def even_ticks(limits: Interval) -> list[tuple[float, str]]:
    """From 0 up in steps of 1, 2 or 5 times a power of ten.

    >>> [word for _, word in even_ticks((0, 54))]
    ['0', '10', '20', '30', '40', '50']
    """
    steps = MaxNLocator(MOST_TICKS, steps=[1, 2, 5, 10]).tick_values(0.0, limits[1])
    return [(float(tick), f"{tick:.12g}") for tick in steps if tick <= limits[1]]


def number_ticks(limits: Interval) -> list[tuple[float, str]]:
    """1, 2, 5, 10, ...; if these are too many, whole decades or every second, third or fourth of them.

    >>> [word for _, word in number_ticks((7, 300))]
    ['10', '20', '50', '100', '200']
    """
    low, high = limits
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    choices = [fine, *([10.0**decade for decade in decades if decade % step == 0] for step in (1, 2, 3, 4))]
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in choices]
    chosen = next((ticks for ticks in inside if len(ticks) <= MOST_TICKS), inside[-1])
    return [(tick, f"{tick:.12g}") for tick in chosen]


def byte_ticks(limits: Interval) -> list[tuple[float, str]]:
    """Powers of two; if these are too many, every second, third, ... of them.

    >>> [word for _, word in byte_ticks((5000, 200 * 1024**2))]
    ['32 KiB', '256 KiB', '2 MiB', '16 MiB', '128 MiB']
    """
    low, high = math.ceil(math.log2(limits[0])), math.floor(math.log2(limits[1]))
    powers = range(max(0, low), high + 1)
    inside = [[power for power in powers if power % step == 0] for step in (1, 2, 3, 4, 5, 10)]
    chosen = next((ticks for ticks in inside if len(ticks) <= MOST_TICKS), inside[-1])
    return [(2.0**power, f"{2 ** (power % 10)} {BYTE_UNITS[power // 10]}") for power in chosen]


def value_ticks(values: Iterable[int], limits: Interval, *, linear: bool = False) -> list[tuple[float, str]]:
    """The measured values themselves, 0 and the largest first. One without room for its label is left out.

    >>> [word for _, word in value_ticks([128, 500, 512, 1024], (100, 1300))]
    ['128', '512', '1024']
    >>> [word for _, word in value_ticks([0, 128, 512, 1024], (-50, 1100), linear=True)]
    ['0', '512', '1024']
    """
    place = float if linear else math.log
    width = place(limits[1]) - place(limits[0])

    def apart(one: int, other: int) -> bool:
        # Half of each label; longer labels than four digits need more room.
        gap = LEAST_GAP * max(1.0, (len(str(one)) + len(str(other))) / 8)
        return abs(place(one) - place(other)) >= gap * width

    chosen: list[int] = []
    for value in sorted(set(values), key=lambda value: (value != 0, -value)):
        if all(apart(value, other) for other in chosen):
            chosen.append(value)
    return [(float(value), str(value)) for value in sorted(chosen)]


def spread_out(places: list[float], gap: float) -> list[float]:
    """The places, moved as little as possible to have `gap` between neighbours, within 0 to 1.

    >>> [round(place, 2) for place in spread_out([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    # Groups of labels that touch, each centred on the mean of its members' places.
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _low(groups[-1], places, gap) < _high(groups[-2], places, gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(places)
    for group in groups:
        for place, index in enumerate(group):
            moved[index] = _low(group, places, gap) + place * gap
    return moved


def _low(group: list[int], places: list[float], gap: float) -> float:
    middle = sum(places[index] for index in group) / len(group)
    reach = gap * (len(group) - 1)
    return min(max(0.0, middle - reach / 2), max(0.0, 1.0 - reach))


def _high(group: list[int], places: list[float], gap: float) -> float:
    return _low(group, places, gap) + gap * (len(group) - 1)
