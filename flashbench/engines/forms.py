"""Shapes and strides of arrays, and what follows from them before there is an array.

A plan of a call is made from these alone, and so it serves every call whose arrays have them.
"""

from __future__ import annotations

import itertools
import math
import operator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from flashbench.engines.protocol import Array

Ints: TypeAlias = tuple[int, ...]

# Gather k and v only if each row is read by at least this many queries. Measured from 64 to 4096 tokens. At
# 256 the gain depends on whether the memory of the copies is new to the process.
_WORTH_GATHERING = 512
# L1: 4096 bytes span all sets, 8 ways each.
_SETS_BYTES, _WAYS = 4096, 8


class Form(NamedTuple):
    """The shape and strides of an array of (batch, heads, rows, columns)."""

    shape: Ints
    strides: Ints
    itemsize: int

    @classmethod
    def contiguous(cls, shape: Ints, itemsize: int) -> Form:
        """In C order."""
        strides = itertools.accumulate(reversed(shape[1:]), operator.mul, initial=itemsize)
        return cls(shape, tuple(strides)[::-1], itemsize)

    @property
    def readable(self) -> bool:
        """Whether a kernel can read an array of this form; see `readable`."""
        in_one_piece = self.strides[-1] == self.itemsize or self.shape[-1] == 1
        return in_one_piece and self.strides[-2] % self.itemsize == 0


class Result(NamedTuple):
    """How to make an array of results."""

    shape: Ints  # in the order of memory
    dtype: np.dtype[Any]
    by_rows: bool = False  # a view of (batch, rows, heads, columns)
    zeros: bool = False

    @classmethod
    def like(cls, x: Form, columns: int, dtype: Any, *, zeros: bool = False) -> Result:
        """(batch, heads, rows, columns) with x's batch, heads, rows and memory order.

        If x is a view of a (batch, seqlen, heads, head_dim) array, so is the result. Its user will merge the
        heads again, and then needs no copy.
        """
        batch, heads, rows = x.shape[:3]
        by_rows = 0 < x.strides[1] < x.strides[2]
        shape = (batch, rows, heads, columns) if by_rows else (batch, heads, rows, columns)
        return cls(shape, np.dtype(dtype), by_rows, zeros)

    def make(self) -> Array:
        """A new array, uninitialised unless `zeros`."""
        shape, dtype, by_rows, zeros = self
        found: Array = np.zeros(shape, dtype) if zeros else np.empty(shape, dtype)
        return found.transpose(0, 2, 1, 3) if by_rows else found

    @property
    def form(self) -> Form:
        """Of what `make` returns."""
        memory = Form.contiguous(self.shape, self.dtype.itemsize)
        if not self.by_rows:
            return memory
        shape, strides = (tuple(x[axis] for axis in (0, 2, 1, 3)) for x in memory[:2])
        return Form(shape, strides, memory.itemsize)


def result_like(x: Array, columns: int) -> Array:
    """A new array by `Result.like`, of x's dtype."""
    return Result.like(Form(x.shape, x.strides, x.itemsize), columns, x.dtype).make()


def readable(x: Array) -> Array:
    """The array itself if a kernel can read it, else a contiguous copy.

    A kernel takes any strides of batch and head. Elements of a row must be contiguous and aligned, and the
    stride of rows a multiple of the element size.
    """
    if x.flags.aligned and Form(x.shape, x.strides, x.itemsize).readable:
        return x
    return np.ascontiguousarray(x)


def scattered(row_bytes: int, rows: int) -> bool:
    """Whether `rows` rows, row_bytes apart, evict each other from the first-level cache.

    Rows of one head of a (batch, seqlen, heads, head_dim) array fall into few sets of the cache.
    """
    return _SETS_BYTES // math.gcd(row_bytes, _SETS_BYTES) * _WAYS < rows


def worth_gathering(x: Form, readers: float) -> bool:
    """Whether to copy an array of this form, so that each head is contiguous.

    It pays if the rows are scattered and enough queries read each row. readers: queries per row of x.
    """
    row_bytes, size = x.strides[2], x.shape[3] * x.itemsize
    # A broadcast array (stride 0) would grow when copied.
    shared = 0 in (step for step, count in zip(x.strides, x.shape, strict=True) if count > 1)
    return (
        not shared and readers >= _WORTH_GATHERING and row_bytes > size and scattered(row_bytes, x.shape[2])
    )


def tile_is_scattered(x: Form, rows: int) -> bool:
    """Whether a task should work on a copy of its tile of `rows` rows of x."""
    row_bytes = x.strides[2]
    return row_bytes > x.shape[3] * x.itemsize and scattered(row_bytes, min(rows, x.shape[2]))
