"""The three views of one call's memory, and whether they agree: memray, resident process, computed."""

from __future__ import annotations

from itertools import combinations
from typing import Literal, NamedTuple

from flashbench.results.record import Memory

View = Literal["memray", "resident", "expected"]
# Allowed difference between two views. The first covers pages, stacks and objects of the interpreter, the
# second a share of large workspaces.
AGREE_BYTES = 64 * 1024
AGREE_SHARE = 0.05

# (larger, smaller) -> the usual cause
CAUSES: dict[tuple[View, View], str] = {
    ("memray", "expected"): "a library took memory of its own",
    ("expected", "memray"): "less was needed than computed",
    ("memray", "resident"): "part of it was not touched",
    ("resident", "memray"): "pages taken past the allocator, or freed ones that did not fit",
    ("resident", "expected"): "a library took memory of its own",
    ("expected", "resident"): "part of it was not touched",
}


class MemoryViews(NamedTuple):
    """Bytes beyond inputs and outputs in each view; None if it was not measured."""

    memray: int | None
    resident: int | None  # growth less the outputs
    expected: int | None

    def disagreements(self) -> list[tuple[View, View]]:
        """(larger, smaller) of each pair that differs by more than 64 KiB and by more than 5 %.

        >>> MemoryViews(memray=786432, resident=280576, expected=331776).disagreements()
        [('memray', 'resident'), ('memray', 'expected')]
        """
        views: list[tuple[View, int | None]] = [
            ("memray", self.memray),
            ("resident", self.resident),
            ("expected", self.expected),
        ]
        known = [(name, size) for name, size in views if size is not None]
        return [
            (first, second) if size > other else (second, first)
            for (first, size), (second, other) in combinations(known, 2)
            if abs(size - other) > max(AGREE_BYTES, AGREE_SHARE * max(size, other))
        ]


def memory_views(memory: Memory) -> MemoryViews:
    """The views of a record. Without memray its view is None, and the resident one replaces it."""
    resident = memory.resident_delta_bytes
    return MemoryViews(
        memray=memory.workspace_peak_bytes if memory.instrument == "memray" else None,
        resident=None if resident is None else resident - memory.output_bytes,
        expected=memory.expected_workspace_bytes,
    )
