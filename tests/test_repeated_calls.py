"""What is known of a call serves the next one, but nothing of it that may differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flashbench.errors import AttentionError
from flashbench.functional import attention


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"causal": True}, {"causal": 1}),
        ({"num_threads": 1}, {"num_threads": True}),
        ({"softmax_scale": 1.0}, {"softmax_scale": True}),
        ({"window": (1, 0)}, {"window": (True, 0)}),
        ({"window": (1, 0)}, {"window": (1.0, 0)}),
        ({"use_simd": True}, {"use_simd": 1}),
    ],
    ids=str,
)
def test_a_value_that_equals_an_accepted_one_is_still_refused(
    good: dict[str, Any], bad: dict[str, Any]
) -> None:
    x = np.ones((1, 1, 5, 8))
    for _ in range(2):
        attention(x, x, x, **good)
        with pytest.raises(AttentionError, match=f"^{next(iter(bad))} must be"):
            attention(x, x, x, **bad)


@pytest.mark.parametrize("make", [list, np.array, tuple], ids=["list", "array", "tuple"])
def test_lengths_are_read_in_each_call(make: Callable[[Any], Any]) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 8)) for n in (3, 9, 9))
    lengths = make([9])
    first = attention(q, k, v, key_lengths=lengths)
    if make is tuple:
        lengths = (4,)
    else:
        lengths[0] = 4
    second = attention(q, k, v, key_lengths=lengths)
    assert np.array_equal(first, attention(q, k, v))
    assert np.allclose(second, attention(q, k[:, :, :4], v[:, :, :4]), rtol=1e-14)
    assert not np.allclose(first, second)


def test_what_is_known_of_a_call_serves_other_arrays_of_its_shapes_only() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for shape in ((2, 3, 7, 8), (2, 7, 8)):
            for _ in range(2):
                q, k, v = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
                found = attention(q, k, v, causal=True)
                assert (found.shape, found.dtype) == (shape, dtype)
                assert np.array_equal(found, attention(q, k, v, mask=np.tri(7, dtype=bool)))
    with pytest.raises(AttentionError, match="v must have k's batch"):
        attention(q, k, v[:, :6], causal=True)
