"""The micro-kernel against NumPy's matmul."""

import numpy as np
import pytest
from helpers.support import assert_close
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashbench.codegen.pointers import pointer
from flashbench.kernels.products import Matrix
from flashbench.kernels.products.fma import multiply
from flashbench.tolerances import UNIT_ROUNDOFF


@njit
def run_multiply(zero, a, a_row, a_col, b, b_row, c, c_row, rows, columns, depth, accumulate):
    multiply(
        pointer(zero, a),
        a_row,
        a_col,
        Matrix(pointer(zero, b), b_row),
        Matrix(pointer(zero, c), c_row),
        rows,
        columns,
        depth,
        accumulate,
    )


def product(a, b, c, accumulate):
    """c (+)= a @ b by the micro-kernel. c may be a view of a larger array."""
    size = c.itemsize
    run_multiply(
        c.dtype.type(0),
        a.ctypes.data,
        a.strides[0] // size,
        a.strides[1] // size,
        b.ctypes.data,
        b.strides[0] // size,
        c.ctypes.data,
        c.strides[0] // size,
        c.shape[0],
        c.shape[1],
        a.shape[1],
        accumulate,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(
    rows=st.integers(1, 33),
    columns=st.integers(1, 150),
    depth=st.integers(1, 40),
    transposed=st.booleans(),
    accumulate=st.booleans(),
    seed=st.integers(0, 100),
)
def test_multiply_matches_numpy_and_writes_nothing_else(
    dtype, rows, columns, depth, transposed, accumulate, seed
):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((depth, rows) if transposed else (rows, depth)).astype(dtype)
    a = a.T if transposed else a
    b = rng.standard_normal((depth, columns)).astype(dtype)
    frame = rng.standard_normal((rows + 2, columns + 20)).astype(dtype)
    before = frame.copy()
    c = frame[1:-1, 3 : 3 + columns]
    expected = (c if accumulate else 0) + a.astype("float64") @ b.astype("float64")
    product(a, b, c, accumulate)
    assert_close(c, expected, 64 * UNIT_ROUNDOFF[dtype] * np.sqrt(depth))
    before[1:-1, 3 : 3 + columns] = c
    np.testing.assert_array_equal(frame, before)


def test_multiply_of_no_depth_clears_or_keeps():
    a, b, c = np.ones((3, 0)), np.ones((0, 5)), np.full((3, 5), 7.0)
    product(a, np.ones((1, 5)) if b.size == 0 else b, c, True)
    np.testing.assert_array_equal(c, 7.0)
    product(a, np.ones((1, 5)), c, False)
    np.testing.assert_array_equal(c, 0.0)
