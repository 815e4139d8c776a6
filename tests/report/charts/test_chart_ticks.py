"""Ticks and label places: few, inside, in order and apart."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.report.charts.ticks import (
    byte_ticks,
    even_ticks,
    from_zero,
    number_ticks,
    padded,
    spread_out,
    value_ticks,
)

LOW = st.floats(1e-6, 1e9)
WIDE = st.floats(4, 1e12)


@given(low=LOW, wide=WIDE)
def test_number_ticks_are_few_and_inside_and_read_as_they_are(low: float, wide: float) -> None:
    ticks = number_ticks((low, low * wide))
    assert 1 <= len(ticks) <= 7
    assert all(low <= value <= low * wide and math.isclose(float(word), value) for value, word in ticks)


@given(low=st.floats(1, 1e12), wide=st.floats(4, 1e6))
def test_byte_ticks_are_whole_powers_of_two(low: float, wide: float) -> None:
    ticks = byte_ticks((low, low * wide))
    units = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4, "PiB": 5}
    assert 1 <= len(ticks) <= 7
    for value, word in ticks:
        number, unit = word.split(" ")
        assert low <= value <= low * wide
        assert value == int(number) * 1024 ** units[unit]


@given(st.floats(1e-6, 1e9))
def test_even_ticks_are_few_from_zero_and_read_as_they_are(highest: float) -> None:
    low, high = from_zero([highest])
    ticks = even_ticks((low, high))
    assert 3 <= len(ticks) <= 6
    assert ticks[0] == (0.0, "0")
    steps = [after - before for (before, _), (after, _) in pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert ticks[-1][0] <= high < ticks[-1][0] + 1.01 * steps[0]
    assert all(math.isclose(float(word), value) for value, word in ticks)


@pytest.mark.parametrize(
    ("values", "limits"),
    [([20.0, 50.0], (0.0, 54.0)), ([0.0], (0.0, 1.08)), ([], (0.0, 1.08))],
)
def test_limits_from_zero(values: list[float], limits: tuple[float, float]) -> None:
    assert from_zero(values) == limits
    assert from_zero(values, before=0.5)[0] == -0.5 * max([*values, 0.0] if any(values) else [1.0])


def test_depths_on_a_linear_axis_give_way_to_the_larger() -> None:
    ticks = value_ticks([0, 128, 512, 1024], (-50, 1100), linear=True)
    assert [word for _, word in ticks] == ["0", "512", "1024"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ((5000, 200 * 1024**2), ["32 KiB", "256 KiB", "2 MiB", "16 MiB", "128 MiB"]),
        ((900, 5000), ["1 KiB", "2 KiB", "4 KiB"]),
    ],
)
def test_byte_ticks_of_usual_ranges(limits: tuple[float, float], words: list[str]) -> None:
    assert [word for _, word in byte_ticks(limits)] == words


def test_number_ticks_of_usual_ranges() -> None:
    assert [word for _, word in number_ticks((7, 300))] == ["10", "20", "50", "100", "200"]
    assert [word for _, word in number_ticks((0.08, 120))] == ["0.1", "1", "10", "100"]


def test_lengths_that_are_too_close_give_way_to_the_longer() -> None:
    ticks = value_ticks([128, 500, 512, 1024], (100, 1300))
    assert [word for _, word in ticks] == ["128", "512", "1024"]


def test_limits_have_a_margin_and_are_never_a_point() -> None:
    assert padded([100.0, 100.0]) == (50.0, 200.0)
    low, high = padded([1.0, 1000.0]) or (0, 0)
    assert low < 1
    assert high > 1000
    assert padded([]) is None
    assert padded([0.0]) is None


@given(places=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_stay_in_order_apart_and_inside(places: list[float]) -> None:
    gap = 0.1
    moved = spread_out(places, gap)
    order = sorted(range(len(places)), key=places.__getitem__)
    steps = [moved[later] - moved[earlier] for earlier, later in pairwise(order)]
    assert all(step >= gap - 1e-9 for step in steps)
    assert min(moved) >= 0
    assert max(moved) <= 1 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread_out([0.9, 0.2, 0.5], 0.1) == pytest.approx([0.9, 0.2, 0.5])
    assert spread_out([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
