"""The table of dtypes says what NumPy says of the dtypes that NumPy has."""

from __future__ import annotations

from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from flashbench.dtypes import (
    ACCUMULATORS,
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
    entry, of_numpy = DTYPES[dtype], ml_dtypes.finfo(dtype)
    assert entry.storage == ("uint16" if dtype == "bfloat16" else dtype)
    assert entry.itemsize == np.dtype(entry.storage).itemsize == np.dtype(dtype).itemsize
    assert entry.unit_roundoff == float(of_numpy.eps) / 2
    assert entry.smallest_normal == float(of_numpy.smallest_normal)
    assert entry.largest == float(of_numpy.max)
    assert DTYPES[entry.accumulator].itemsize >= max(4, entry.itemsize)
    assert accumulator_of(entry.accumulator) is accumulator_of(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_go_into_storage_and_out_again(dtype: Dtype) -> None:
    numbers = np.array([1.0, 1 / 3, -np.inf, np.nan])
    stored = DTYPES[dtype].make(numbers)
    assert stored.dtype == DTYPES[dtype].storage
    if dtype != "bfloat16":
        assert DTYPES[dtype].make(stored) is stored  # what is rounded already is not copied
    viewed = DTYPES[dtype].view(stored)
    assert viewed.dtype == DTYPES[dtype].accumulator
    np.testing.assert_array_equal(viewed, numbers.astype(dtype).astype(viewed.dtype))


@given(arrays(np.uint32, 64))
def test_bfloat16_is_rounded_as_ml_dtypes_rounds(bits: np.ndarray) -> None:
    numbers = bits.view(np.float32)
    with np.errstate(all="ignore"):
        expected = numbers.astype(ml_dtypes.bfloat16)
    stored = DTYPES["bfloat16"].make(numbers)
    finite = ~np.isnan(numbers)
    np.testing.assert_array_equal(stored[finite], expected.view(np.uint16)[finite])
    np.testing.assert_array_equal(DTYPES["bfloat16"].view(stored), expected.astype(np.float32))


@pytest.mark.parametrize("bits", range(0, 0x10000, 0x100))
def test_every_pattern_is_its_number(bits: int) -> None:
    patterns = np.arange(bits, bits + 0x100, dtype=np.uint16)
    expected = patterns.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(DTYPES["bfloat16"].view(patterns), expected)


def test_orders_and_words() -> None:
    sizes = [DTYPES[dtype].itemsize for dtype in NARROWEST_FIRST]
    assert sizes == sorted(sizes)
    assert NARROWEST_FIRST[::-1] == WIDEST_FIRST
    assert ACCUMULATORS == ("float64", "float32")
    assert listed(NARROWEST_FIRST, "and") == "float16, bfloat16, float32 and float64"
    assert listed(("float32",), "or") == "float32"


def test_lse_is_an_accumulator_and_o_is_storage() -> None:
    assert entry_of_output("float32", "lse") is accumulator_of("float32")
    assert entry_of_output("float32", "o") is DTYPES["float32"]
    assert entry_of_output("bfloat16", "dmask") is DTYPES["float32"]
    assert entry_of_output("bfloat16", "dq") is DTYPES["bfloat16"]
