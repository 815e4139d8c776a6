"""When the views of a call's memory count as different."""

from __future__ import annotations

from typing import Any

import pytest

from flashbench.results.record import Memory
from flashbench.studies.agreement import expected_disagrees, resident_disagrees

KB, MB = 1024, 1024**2


def memory(workspace: int, **views: Any) -> Memory:
    sizes: dict[str, Any] = {"input_bytes": 0, "output_bytes": 0, "expected_workspace_bytes": None}
    return Memory(workspace_peak_bytes=workspace, **(sizes | views))


@pytest.mark.parametrize(
    ("workspace", "expected", "disagrees"),
    [
        (8 * KB, 72 * KB, False),  # 64 KB are always allowed
        (8 * KB, 73 * KB, True),
        (100 * MB, 105 * MB, False),  # and 5 %
        (100 * MB, 106 * MB, True),
        (100 * MB, 94 * MB, True),
        (100 * MB, None, False),
    ],
)
def test_expected_may_differ_by_5_percent_or_64_kilobytes(
    workspace: int, expected: int | None, disagrees: bool
) -> None:
    assert expected_disagrees(memory(workspace, expected_workspace_bytes=expected)) is disagrees


@pytest.mark.parametrize(
    ("resident", "disagrees"),
    [
        (100 * MB, False),
        (120 * MB, False),
        (125 * MB, False),
        (126 * MB, True),
        (94 * MB, True),
        (None, False),
    ],
)
def test_the_process_may_grow_by_the_outputs_or_not(resident: int | None, disagrees: bool) -> None:
    measured = memory(100 * MB, output_bytes=20 * MB, resident_delta_bytes=resident)
    assert resident_disagrees(measured) is disagrees


def test_a_workspace_that_comes_from_the_resident_size_does_not_disagree_with_it() -> None:
    assert not resident_disagrees(memory(0, resident_delta_bytes=90 * MB, instrument="resident"))
