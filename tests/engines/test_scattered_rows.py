"""Rows so far apart that they push each other out of the cache are gathered: the same bits, faster."""

from __future__ import annotations

import numpy as np
import pytest

from flashbench import attention, attention_backward
from flashbench.engines import launch
from flashbench.kernels.blocks import scattered


@pytest.mark.parametrize(
    ("row_bytes", "rows", "expected"),
    [
        (256, 64, False),  # neighbours: all sets
        (512, 64, False),  # every second group of lines, eight ways
        (1024, 64, True),
        (2048, 64, True),
        (4096, 64, True),  # all in the same sets
        (4096, 8, False),
        (4096 + 64, 64, False),  # an odd number of lines apart
        (3 * 1024, 64, True),
    ],
)
def test_which_rows_push_each_other_out(row_bytes: int, rows: int, expected: bool) -> None:
    assert scattered(row_bytes, rows) == expected


def by_rows(x: np.ndarray) -> np.ndarray:
    """The same numbers as a view of a (batch, seqlen, heads, head_dim) array, as models have them."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)


FEATURES = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (40, 3)},
    "softcap, sinks": {"softcap": 3.0, "sinks": True},
    "mask": {"mask": True},
    "dropout": {"dropout": 0.3, "dropout_seed": 5},
}


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf])
def test_the_bits_are_those_of_neighbours(
    features: str, dtype: type, bad: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    heads, seqlen, head_dim, head_dim_v = 16, 150, 72, 60
    q, k = (rng.standard_normal((2, heads, seqlen, head_dim)).astype(dtype) for _ in range(2))
    v, do = (rng.standard_normal((2, heads, seqlen, head_dim_v)).astype(dtype) for _ in range(2))
    if bad is not None:
        v[0, 1, 7, 3] = k[1, 2, 9, 4] = q[0, 3, 11, 5] = bad
    options = dict(FEATURES[features])
    if options.pop("mask", False):
        options["mask"] = rng.random((seqlen, seqlen)) < 0.8
    if options.pop("sinks", False):
        options["sinks"] = rng.standard_normal(heads).astype(dtype)
    gathered = []
    rooms_for = launch.rooms_for

    def spy(tiles, stride):
        rooms, wider = rooms_for(tiles, stride)
        gathered.append(all(rooms))
        return rooms, wider

    monkeypatch.setattr("flashbench.engines.flash.rooms_for", spy)
    monkeypatch.setattr(launch, "scattered", lambda row_bytes, rows: True)
    with np.errstate(all="ignore"):
        o, lse = attention(q, k, v, return_lse=True, **options)
        expected = o, lse, *attention_backward(do, q, k, v, o, lse, **options)
        q, k, v, do = map(by_rows, (q, k, v, do))
        o, lse = attention(q, k, v, return_lse=True, **options)
        found = o, lse, *attention_backward(do, q, k, v, o, lse, **options)
    assert gathered == [False, False, True, True]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
