"""What tests of exactness share: one comparison, whose failure says where and by how much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashbench.reference import largest_error


def assert_close(actual: NDArray[np.floating], expected: NDArray[np.floating], tolerance: float) -> None:
    """Assert |actual - expected| <= tolerance everywhere, with NaN and infinities in the same places."""
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    error = largest_error(actual, expected)
    if error <= tolerance:
        return
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    difference = np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf))
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    raise AssertionError(
        f"error {error:.3g} is above {tolerance:.3g}: {actual[worst]!r} is not {expected[worst]!r}"
        f" at {tuple(map(int, worst))}; {int((difference > tolerance).sum())} of {difference.size} are wrong"
    )
