"""Conversions of 16-bit floats against NumPy's and ml_dtypes': every pattern, and dense float32."""

import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from flashbench.codegen.elements import BFLOAT16, FLOAT16
from flashbench.codegen.ir import full_vector, load, load_one, loop, store, store_one

ml_dtypes = pytest.importorskip("ml_dtypes")

HALVES = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}


def converter(half, by_vectors, *, widens):
    """A compiled function (address of the target, of the source, count): target[i] = source[i].

    by_vectors: whole vectors, else one by one. widens: from the half to float32, else from float32 to it.
    """
    wide, narrow = types.CPointer(types.float32), types.CPointer(half)

    @intrinsic
    def pointers(typingctx, target, source):
        def codegen(context, builder, signature, args):
            kinds = [context.get_value_type(kind) for kind in signature.return_type]
            return context.make_tuple(
                builder,
                signature.return_type,
                [builder.inttoptr(x, kind) for x, kind in zip(args, kinds, strict=True)],
            )

        return types.Tuple((wide, narrow) if widens else (narrow, wide))(target, source), codegen

    @intrinsic
    def copy(typingctx, target, source, count):
        def codegen(context, builder, signature, args):
            target, source, count = args
            vector = full_vector(ir.FloatType())
            with loop(builder, count, step=vector.count if by_vectors else 1, carry=[]) as (place, _, _):
                if by_vectors:
                    store(builder, load(builder, source, place, vector), target, place)
                else:
                    store_one(builder, load_one(builder, source, place), target, place)
            return context.get_dummy_value()

        return types.void(target, source, count), codegen

    @njit
    def convert(target, source, count):
        target, source = pointers(target, source)
        copy(target, source, count)

    return convert


@pytest.mark.parametrize("by_vectors", [True, False], ids=["vectors", "scalars"])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_every_pattern_is_widened_exactly(half, by_vectors):
    patterns = np.arange(2**16, dtype=np.uint16)
    actual = np.empty(2**16, np.float32)
    convert = converter(half, by_vectors, widens=True)
    convert(actual.ctypes.data, patterns.ctypes.data, len(patterns))
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = patterns.view(HALVES[half]).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    # The sign of a NaN and the bits after its first, which says that it is quiet.
    kept = np.uint32(0x803FFFFF)
    np.testing.assert_array_equal(actual.view(np.uint32)[nan] & kept, expected.view(np.uint32)[nan] & kept)


def dense_numbers():
    """float32 with every upper half. Lower halves: at, just below and just above each tie of float16.

    They include bfloat16's tie, 0x8000. A tie of a subnormal float16 is in the upper half.
    """
    ties = np.arange(0, 2**16, 0x1000)
    lower = np.unique(np.concatenate([ties - 1, ties, ties + 1]) & 0xFFFF).astype(np.uint32)
    upper = np.arange(2**16, dtype=np.uint32) << 16
    return (upper[:, np.newaxis] | lower).ravel().view(np.float32)


@pytest.mark.parametrize("by_vectors", [True, False], ids=["vectors", "scalars"])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_float32_is_rounded_to_nearest_even(half, by_vectors):
    numbers = dense_numbers()
    assert len(numbers) % 64 == 0
    actual = np.empty(len(numbers), HALVES[half])
    convert = converter(half, by_vectors, widens=False)
    convert(actual.ctypes.data, numbers.ctypes.data, len(numbers))
    with np.errstate(all="ignore"):  # overflow, signalling NaN
        expected = numbers.astype(HALVES[half])
    nan = np.isnan(numbers)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    np.testing.assert_array_equal(actual.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
    np.testing.assert_array_equal(np.signbit(actual[nan]), np.signbit(numbers[nan]))


def test_dense_numbers_hold_what_rounds_in_every_way():
    """The samples above have ties, subnormal results, results that overflow, infinities and NaN."""
    x = np.abs(dense_numbers())
    assert np.isnan(x).any()
    assert np.isinf(x).any()
    for half in HALVES.values():
        info = ml_dtypes.finfo(half)
        with np.errstate(all="ignore"):
            rounded = x.astype(half).astype(np.float32)
        assert (np.isinf(rounded) & np.isfinite(x)).any()
        subnormal = (rounded > 0) & (rounded < np.float32(info.smallest_normal))
        assert (subnormal & (rounded != x)).any()
        with np.errstate(all="ignore"):
            above = np.nextafter(rounded.astype(half), half(np.inf)).astype(np.float32)
            assert ((x - rounded == above - x) & (x > 0)).sum() > 1000  # ties that go down
