"""Vector 2**x against NumPy in extended precision, and at the edges."""

import numpy as np
import pytest
from numba import njit

from flashbench.codegen.isa import ISA
from flashbench.codegen.pointers import pointer
from flashbench.kernels.tile.softmax import probabilities
from flashbench.tolerances import UNIT_ROUNDOFF


@njit
def run_probabilities(zero, scores, lanes, rows, shifts):
    probabilities(pointer(zero, scores), lanes, rows, lanes, pointer(zero, shifts), None)


def exp2(values, dtype):
    """2**values through the kernels' exponential (the recomputation of p with lse 0)."""
    lanes = ISA.lanes(np.dtype(dtype).itemsize) * 7  # groups of 4, 2 and 1 vectors
    rows = -(-len(values) // lanes)
    scores = np.zeros((rows, lanes), dtype)
    scores.ravel()[: len(values)] = values
    run_probabilities(
        scores.dtype.type(0), scores.ctypes.data, lanes, rows, np.zeros(lanes, dtype).ctypes.data
    )
    return scores.ravel()[: len(values)]


@pytest.mark.parametrize(("dtype", "lowest"), [("float64", -1000.0), ("float32", -100.0)])
def test_exp2_is_right_to_two_roundings(dtype, lowest):
    x = np.concatenate([np.linspace(lowest, 0, 100_001), np.linspace(-1, 0, 10_001)]).astype(dtype)
    expected = np.exp2(x.astype(np.longdouble))
    assert np.max(np.abs(exp2(x, dtype) - expected) / expected) <= 2 * UNIT_ROUNDOFF[dtype]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_exp2_of_minus_infinity_is_exactly_zero(dtype):
    np.testing.assert_array_equal(exp2(np.full(3, -np.inf), dtype), 0.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_exp2_of_what_counts_for_nothing_is_exactly_zero(dtype):
    """An exact zero, so that no product with it is denormal."""
    lowest = -1000.0 if dtype == "float64" else -100.0
    x = -np.geomspace(1 - lowest, float(np.finfo(dtype).max) / 2, 1000).astype(dtype)
    np.testing.assert_array_equal(exp2(x, dtype), 0.0)


@pytest.mark.parametrize(
    ("dtype", "bits", "payloads"),
    [
        ("float64", np.int64, [0x7FF8000000000000, 0x7FF8000000000001, 0x7FF8000000000FFF, -1]),
        ("float32", np.int32, [0x7FC00000, 0x7FC00001, 0x7FC001FF, -1]),
    ],
)
def test_exp2_of_nan_is_nan_whatever_its_payload(dtype, bits, payloads):
    x = np.array(payloads, dtype=bits).view(dtype)
    assert np.isnan(exp2(x, dtype)).all()
