"""The table of dtypes says what NumPy says of the dtypes that NumPy has."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from flashbench.dtypes import (
    DEFAULT_DTYPE,
    DTYPES,
    NARROWEST_FIRST,
    WIDEST_FIRST,
    Dtype,
    accumulator_of,
    entry_of_output,
    listed,
)


def test_every_dtype_has_an_entry() -> None:
    assert set(DTYPES) == set(get_args(Dtype))
    assert DEFAULT_DTYPE in DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_entry_agrees_with_numpy(dtype: Dtype) -> None:
    entry, of_numpy = DTYPES[dtype], np.finfo(dtype)
    assert entry.storage == dtype
    assert entry.itemsize == np.dtype(entry.storage).itemsize
    assert entry.unit_roundoff == of_numpy.eps / 2
    assert entry.smallest_normal == of_numpy.smallest_normal
    assert accumulator_of(dtype) is DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_go_into_storage_and_out_again(dtype: Dtype) -> None:
    numbers = np.array([1.0, 1 / 3, -np.inf, np.nan])
    stored = DTYPES[dtype].make(numbers)
    assert stored.dtype == DTYPES[dtype].storage
    assert DTYPES[dtype].make(stored) is stored  # what is rounded already is not copied
    np.testing.assert_array_equal(DTYPES[dtype].view(stored), numbers.astype(dtype))


def test_orders_and_words() -> None:
    sizes = [DTYPES[dtype].itemsize for dtype in NARROWEST_FIRST]
    assert sizes == sorted(sizes)
    assert NARROWEST_FIRST[::-1] == WIDEST_FIRST
    assert listed(NARROWEST_FIRST, "and") == "float32 and float64"
    assert listed(("float32",), "or") == "float32"


def test_lse_is_an_accumulator_and_o_is_storage() -> None:
    assert entry_of_output("float32", "lse") is accumulator_of("float32")
    assert entry_of_output("float32", "o") is DTYPES["float32"]
