"""Tiles of bfloat16 inside memory that must not be read, and rooms inside memory that must not be written."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

NAN = 0x7FC1  # in memory around a tile: no result may depend on it
GUARD = 0xABCD


def padded(size: int, unit: int) -> int:
    """size rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit


@st.composite
def tiles(draw: Any, rows: int = 70, columns: int = 150) -> NDArray[np.uint16]:
    """A tile of rows inside an array of NaN: any stride, aligned to 2 bytes; the memory ends with it.

    Any patterns of bits.
    """
    count, width = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    x = tile_inside_nan(count, width, draw(st.integers(0, 9)), draw(st.integers(0, 3)))
    x[:] = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**16, x.shape)
    return x


def tile_inside_nan(rows: int, columns: int, gap: int, start: int, patterns: Any = np.uint16) -> NDArray[Any]:
    """An array with `gap` numbers between its rows. They, and the `start` numbers before, are NaN.

    patterns: the type of the numbers' bits.
    """
    row, size = columns + gap, np.dtype(patterns).itemsize
    memory = np.full(start + (rows - 1) * row + columns, NAN * 0x10001 >> 8 * (4 - size), patterns)
    return np.lib.stride_tricks.as_strided(memory[start:], (rows, columns), (size * row, size))


def guarded(count: int, dtype: Any) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """(all of it, `count` elements in its middle that start a cache line)."""
    size = np.dtype(dtype).itemsize
    whole = np.full(count * size // 2 + 96, GUARD, np.uint16)
    start = -(whole.ctypes.data + 32) % 64 // 2 + 16
    return whole, whole[start : start + count * size // 2].view(dtype)


def assert_guards_are_whole(whole: NDArray[np.uint16], inner: NDArray[Any]) -> None:
    """Nothing was written before or after `inner`."""
    before = (inner.ctypes.data - whole.ctypes.data) // 2
    assert (whole[:before] == GUARD).all()
    assert (whole[before + inner.nbytes // 2 :] == GUARD).all()
