"""`assert_close` itself: what it accepts, and its message otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.support import assert_close


def test_equal_arrays_with_nan_and_infinities_are_close() -> None:
    x = np.array([1.0, np.nan, np.inf, -np.inf])
    assert_close(x, x.copy(), 0.0)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.nan, 1.0),
        (1.0, np.nan),
        (np.inf, -np.inf),
        (np.inf, 1.0),
        (1.0, -np.inf),
        (np.nan, np.inf),
        (1.2, 1.0),
    ],
)
def test_a_difference_or_a_misplaced_nan_is_not_close(actual: float, expected: float) -> None:
    with pytest.raises(AssertionError, match=r"is not .* at \(1,\)"):
        assert_close(np.array([0.0, actual, 2.0]), np.array([0.0, expected, 2.0]), 0.1)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"shape \(1,\) is not \(2,\)"):
        assert_close(np.zeros(1), np.zeros(2), 1.0)
