"""Addresses of rows in a call's arrays. Only this file computes them."""

from __future__ import annotations

from flashbench.codegen.pointers import at, at_bytes, recast
from flashbench.codegen.steps import step
from flashbench.codegen.structs import CELL_BYTES, based, element
from flashbench.kernels.call.structs import Sequence
from flashbench.kernels.products import Matrix, Sums

_SEQUENCE_BYTES = CELL_BYTES * len(Sequence._fields)


@step
def rows_at(array, batch, head, first):
    """The rows of one head from row `first` on, as a `Matrix`."""
    start = at_bytes(array.at, batch * array.batch + head * array.head)
    return Matrix(at(start, first * array.row), array.row)


@step
def rows_from(matrix, first):
    """The rows from row `first` on."""
    return Matrix(at(matrix.at, first * matrix.row), matrix.row)


@step
def sums_in_place(matrix, zero):
    """The same rows as sums, for dtypes whose storage type is the accumulator type."""
    return Sums(recast(zero, matrix.at), matrix.row, 1)


@step
def sequence_at(call, b):
    return element(Sequence, call, call.work.sequences + b * _SEQUENCE_BYTES)


@step
def thread_scratch(call, slot):
    """The parts of this thread's scratch, by name."""
    return based(call.scratch, call.work.scratch + slot * call.work.scratch_stride)
