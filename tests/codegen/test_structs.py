"""Structs that Python writes and machine code reads by name."""

from array import array
from typing import NamedTuple

import numpy as np
import pytest
from numba import from_dtype, njit, types

from flashbench.codegen.pointers import at
from flashbench.codegen.steps import step
from flashbench.codegen.structs import Number, Storage, Word, based, element, pack_struct, struct_bytes, view


class Place(NamedTuple):
    numbers: Number
    stored: Storage
    words: Word


class Sizes(NamedTuple):
    count: int
    factor: float


class Scratch(NamedTuple):
    first: Number
    second: Number


class Call(NamedTuple):
    place: Place
    sizes: Sizes
    scratch: Scratch


def reader(number):
    """A function that reads a `Call` whose numbers have this Numba type."""

    @njit
    def read(address, base):
        call = view(Call, types.uint16, number, address)
        own = based(call.scratch, base)
        own.second[0] = call.sizes.factor + call.zero
        place = call.place
        return place.numbers[1], place.stored[2], at(place.words, 1)[0], call.sizes.count, own.first[0]

    return read


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_every_kind_of_cell_is_read_by_name(number):
    numbers, stored = np.array([1.5, 2.5], number), np.array([1, 2, 3], np.uint16)
    words, scratch = np.array([2**40, -(2**50)], np.int64), np.array([7, 8], number)
    place = Place(numbers.ctypes.data, stored.ctypes.data, words.ctypes.data)
    table = array("q", pack_struct(Call(place, Sizes(-5, 0.1), Scratch(0, number().itemsize))))
    read = reader(from_dtype(np.dtype(number)))
    found = read(table.buffer_info()[0], scratch.ctypes.data)
    assert found == (2.5, 3, -(2**50), -5, 7)
    assert scratch[1] == number(0.1)  # rounded once, from a double
    assert len(table) * 8 == struct_bytes(Call)


class Row(NamedTuple):
    number: int
    value: float


@njit
def read_row(address, rows, number):
    call = view(Call, types.float32, types.float32, address)
    row = element(Row, call, rows + number * 16)
    return row.number, row.value


def test_a_table_of_structs_is_read_row_by_row():
    rows = np.zeros((3, 2), np.int64)
    rows[:, 0] = 4, 5, 6
    rows[:, 1] = np.array([0.5, 0.25, 0.125]).view(np.int64)
    table = array("q", pack_struct(Call(Place(0, 0, 0), Sizes(0, 0.0), Scratch(0, 0))))
    found = read_row(table.buffer_info()[0], rows.ctypes.data, 2)
    assert found == (6, 0.125)


@step
def doubled(x):
    return x + x


@njit
def quadrupled(x):
    return doubled(doubled(x))


def test_a_step_runs_in_a_kernel_and_nowhere_else():
    assert quadrupled(3) == 12
    assert quadrupled(0.5) == 2.0
    with pytest.raises(TypeError, match="doubled is a step of kernels"):
        doubled(1)
