"""The dots of tile registers: emulated ones, and where the CPU has them, Intel's."""

import numpy as np
import pytest
from helpers.amx import KINDS, needs_amx
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from flashbench.codegen.ir import const
from flashbench.codegen.tiles import ROW_BYTES, EmulatedTiles, HardwareTiles, tile_config, tile_release
from flashbench.dtypes import DTYPES

BFLOAT16 = DTYPES["bfloat16"]


def dot_intrinsic(kind):
    """c += a b, through tiles 2, 5 and 7. Addresses of 1024 bytes each."""

    @intrinsic
    def dot(typingctx, c, a, b):
        def codegen(context, builder, signature, args):
            tiles = kind(builder)
            places = [builder.inttoptr(at, ir.IntType(8).as_pointer()) for at in args]
            for tile, place in zip((2, 5, 7), places, strict=True):
                tiles.load(tile, place, const(ROW_BYTES))
            tiles.dot(2, 5, 7)
            tiles.store(2, places[0], const(ROW_BYTES))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp), codegen

    return dot


emulated_dot, hardware_dot = dot_intrinsic(EmulatedTiles), dot_intrinsic(HardwareTiles)


@njit
def run_emulated(c, a, b):
    emulated_dot(c, a, b)


@njit
def run_hardware(c, a, b):
    tile_config()
    hardware_dot(c, a, b)
    tile_release()


RUN = {"amx": run_hardware, "amx-emulated": run_emulated}


def dot(kind, c, a, b):
    """c + a @ b by the instruction. c: (16, 16) float32; a: (16, 32), b: (32, 16) patterns of bfloat16."""
    total = c.copy()
    pairs = np.ascontiguousarray(b.reshape(16, 2, 16).swapaxes(1, 2))
    a = np.ascontiguousarray(a)
    RUN[kind](total.ctypes.data, a.ctypes.data, pairs.ctypes.data)
    return total


def normal_numbers(seed):
    rng = np.random.default_rng(seed)
    a, b = (BFLOAT16.make(rng.standard_normal(shape)) for shape in ((16, 32), (32, 16)))
    return rng.standard_normal((16, 16)).astype("float32"), a, b


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000))
def test_a_dot_is_a_sum_of_products(kind, seed):
    c, a, b = normal_numbers(seed)
    wide_a, wide_b = (BFLOAT16.view(x).astype("float64") for x in (a, b))
    error = np.abs(dot(kind, c, a, b) - (c + wide_a @ wide_b))
    size = np.abs(c) + np.abs(wide_a) @ np.abs(wide_b)
    assert np.all(error <= 16 * 2.0**-24 * size)


@pytest.mark.parametrize("kind", KINDS)
def test_denormal_numbers_count_as_zero(kind):
    smallest = np.float32(2.0**-126)
    c, a, b = np.zeros((16, 16), "float32"), np.zeros((16, 32), "uint16"), np.zeros((32, 16), "uint16")
    a[0, 0], b[0, 0] = 0x0001, 0x3F80  # a denormal operand
    a[1, 0] = BFLOAT16.make(np.array([2.0**-100]))[0]
    b[0, 1] = BFLOAT16.make(np.array([2.0**-40]))[0]  # a denormal product
    c[2, 2] = smallest / 2  # a denormal sum before
    b[1, 3], a[3, 1], c[3, 3] = 0x8080, 0x3F80, smallest * np.float32(1.5)  # a denormal sum after
    a[4, 2], b[2, 4] = 0x3F80, 0x0080  # the smallest normal number stays
    expected = np.zeros((16, 16), "float32")
    expected[4, 4] = smallest
    # Row 3 meets column 1, and so on: only what is named above is checked.
    total = dot(kind, c, a, b)
    for place in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4)):
        assert total[place] == expected[place], place


@pytest.mark.parametrize("kind", KINDS)
def test_infinity_and_nan_stay_in_their_row_and_column(kind):
    c, a, b = normal_numbers(1)
    plain = dot(kind, c, a, b)
    a[3, 4], b[7, 9] = 0x7F80, 0x7FC0
    total = dot(kind, c, a, b)
    assert np.isnan(total[:, 9]).all()
    row = np.delete(total[3], 9)
    assert np.isinf(row).all()
    np.testing.assert_array_equal(np.sign(row), np.sign(np.delete(BFLOAT16.view(b[4]), 9)))
    rest = np.delete(np.delete(total, 3, 0), 9, 1)
    np.testing.assert_array_equal(rest, np.delete(np.delete(plain, 3, 0), 9, 1))


@needs_amx
@given(seed=st.integers(0, 10_000), exponents=st.integers(1, 120))
def test_emulated_tiles_give_the_bits_of_the_hardware(seed, exponents):
    rng = np.random.default_rng(seed)

    def numbers(shape):
        return rng.standard_normal(shape) * 2.0 ** rng.integers(-exponents, exponents // 3 + 1, shape)

    a, b = BFLOAT16.make(numbers((16, 32))), BFLOAT16.make(numbers((32, 16)))
    with np.errstate(over="ignore", under="ignore"):
        c = numbers((16, 16)).astype("float32")
    real, emulated = (dot(kind, c, a, b).view("uint32") for kind in ("amx", "amx-emulated"))
    np.testing.assert_array_equal(emulated, real)
