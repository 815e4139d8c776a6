"""Views of memory agree within 64 KiB or 5 %, the larger of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashbench.analysis.memory_views import AGREE_BYTES, AGREE_SHARE, CAUSES, MemoryViews, memory_views
from flashbench.results.record import Memory

KIB = 1024
MIB = 1024**2


def memory(**changes: object) -> Memory:
    fields: dict[str, object] = {
        "workspace_peak_bytes": 10 * MIB,
        "expected_workspace_bytes": 10 * MIB,
        "input_bytes": MIB,
        "output_bytes": MIB,
        "resident_delta_bytes": 11 * MIB,
    }
    return Memory(**(fields | changes))


def test_resident_view_is_without_outputs() -> None:
    assert memory_views(memory()) == MemoryViews(10 * MIB, 10 * MIB, 10 * MIB)
    assert memory_views(memory()).disagreements() == []


def test_views_that_were_not_taken_are_none() -> None:
    views = memory_views(memory(resident_delta_bytes=None, expected_workspace_bytes=None))
    assert views == MemoryViews(10 * MIB, None, None)
    assert views.disagreements() == []


def test_resident_figure_that_stands_in_for_memray_is_one_view_and_not_two() -> None:
    views = memory_views(memory(instrument="resident", expected_workspace_bytes=5 * MIB))
    assert views == MemoryViews(None, 10 * MIB, 5 * MIB)
    assert views.disagreements() == [("resident", "expected")]


@pytest.mark.parametrize(
    ("views", "found"),
    [
        (MemoryViews(100 * KIB, 164 * KIB, 100 * KIB), []),  # 64 KiB exactly
        (
            MemoryViews(100 * KIB, 164 * KIB + 1, 100 * KIB),
            [("resident", "memray"), ("resident", "expected")],
        ),
        (MemoryViews(100 * MIB, 95 * MIB, 100 * MIB), []),  # 5 % exactly
        (MemoryViews(100 * MIB, 95 * MIB - 1, 100 * MIB), [("memray", "resident"), ("expected", "resident")]),
        (MemoryViews(768 * KIB, 274 * KIB, 324 * KIB), [("memray", "resident"), ("memray", "expected")]),
        (MemoryViews(10 * KIB, -8 * KIB, 10 * KIB), []),  # pages
        (MemoryViews(None, None, 10 * MIB), []),
    ],
)
def test_pairs_that_are_apart_are_named_larger_first(
    views: MemoryViews, found: list[tuple[str, str]]
) -> None:
    assert views.disagreements() == found


sizes = st.none() | st.integers(-MIB, 1024 * MIB)


@given(sizes, sizes, sizes)
def test_disagreement_is_that_of_a_pair_beyond_both_limits(
    memray: int | None, resident: int | None, expected: int | None
) -> None:
    views = MemoryViews(memray, resident, expected)
    named = {frozenset(pair) for pair in views.disagreements()}
    for first in ("memray", "resident", "expected"):
        for second in ("memray", "resident", "expected"):
            a, b = getattr(views, first), getattr(views, second)
            if first != second and a is not None and b is not None:
                apart = abs(a - b) > AGREE_BYTES and abs(a - b) > AGREE_SHARE * max(a, b)
                assert (frozenset((first, second)) in named) is apart
    assert all(pair in CAUSES for pair in views.disagreements())
