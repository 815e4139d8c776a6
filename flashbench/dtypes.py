"""The table of dtypes: one entry for each dtype that attention is computed in.

Storage and accumulator are two types. q, k, v, o, do, dq, dk and dv are in storage. Scores, p, row_max,
row_sum, lse and all sums (dsinks, dmask) are accumulators. Where NumPy has no such numbers, storage is their
bit patterns: an entry for bfloat16 has storage uint16, accumulator float32, and a `make` and `view` that
convert. To add a dtype, add its name to `Dtype` and its entry to `DTYPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Dtype = Literal["float16", "bfloat16", "float32", "float64"]
DEFAULT_DTYPE: Dtype = "float64"
# "fixed": a round number promised by the project. "roundings": so many unit roundoffs. See `tolerances`.
# "halves": as flash-attention's tests: against the error of a plain computation in the same dtype.
ToleranceClass = Literal["fixed", "roundings", "halves"]

_ACCUMULATED = frozenset(("lse", "dsinks", "dmask"))


@dataclass(frozen=True)
class DtypeEntry:
    """One dtype: how arrays store it, what kernels compute it in, and how much it rounds."""

    storage: str  # NumPy's dtype of arrays that store it
    accumulator: Dtype
    itemsize: int  # bytes of one stored number
    unit_roundoff: float
    smallest_normal: float
    largest: float  # finite
    tolerance: ToleranceClass
    short: str  # in narrow tables
    make: Callable[[NDArray[np.floating]], NDArray[Any]]  # round numbers into storage
    view: Callable[[NDArray[Any]], NDArray[np.floating]]  # stored numbers, for NumPy to compute with


def _as_it_is(stored: NDArray[Any]) -> NDArray[np.floating]:
    return stored


# In place where it can be: arrays may be as large as memory allows.
def _to_bfloat16(numbers: NDArray[np.floating]) -> NDArray[Any]:
    """The bit patterns, rounded to nearest, ties to even. A NaN stays a NaN."""
    single = numbers.astype("float32").reshape(-1)  # an array also of a single number
    bits = single.view("uint32")
    nan = single != single
    quiet = bits[nan] | 0x400000
    carry = bits >> 16
    carry &= 1
    carry += 0x7FFF
    bits += carry
    del carry
    bits[nan] = quiet
    bits >>= 16
    return bits.astype("uint16").reshape(numbers.shape)


def _from_bfloat16(patterns: NDArray[Any]) -> NDArray[np.floating]:
    bits = patterns.astype("uint32")
    bits <<= 16
    return bits.view("float32")


# Narrowest first.
DTYPES: Mapping[Dtype, DtypeEntry] = {
    "float16": DtypeEntry(
        storage="float16",
        accumulator="float32",
        itemsize=2,
        unit_roundoff=2.0**-11,
        smallest_normal=2.0**-14,
        largest=65504.0,
        tolerance="halves",
        short="f16",
        make=lambda numbers: numbers.astype("float16", copy=False),
        view=lambda stored: stored.astype("float32"),
    ),
    "bfloat16": DtypeEntry(
        storage="uint16",
        accumulator="float32",
        itemsize=2,
        unit_roundoff=2.0**-8,
        smallest_normal=2.0**-126,
        largest=(2 - 2.0**-7) * 2.0**127,
        tolerance="halves",
        short="bf16",
        make=_to_bfloat16,
        view=_from_bfloat16,
    ),
    "float32": DtypeEntry(
        storage="float32",
        accumulator="float32",
        itemsize=4,
        unit_roundoff=2.0**-24,
        smallest_normal=2.0**-126,
        largest=(2 - 2.0**-23) * 2.0**127,
        tolerance="roundings",
        short="f32",
        make=lambda numbers: numbers.astype("float32", copy=False),
        view=_as_it_is,
    ),
    "float64": DtypeEntry(
        storage="float64",
        accumulator="float64",
        itemsize=8,
        unit_roundoff=2.0**-53,
        smallest_normal=2.0**-1022,
        largest=(2 - 2.0**-52) * 2.0**1023,
        tolerance="fixed",
        short="f64",
        make=lambda numbers: numbers.astype("float64", copy=False),
        view=_as_it_is,
    ),
}
NARROWEST_FIRST: tuple[Dtype, ...] = tuple(DTYPES)
WIDEST_FIRST: tuple[Dtype, ...] = NARROWEST_FIRST[::-1]
# The dtypes that sums grow in, widest first: multiply-adds on vectors compute in these.
ACCUMULATORS: tuple[Dtype, ...] = tuple(
    dtype for dtype in WIDEST_FIRST if dtype in {entry.accumulator for entry in DTYPES.values()}
)


def is_half(dtype: Dtype) -> bool:
    """Whether numbers are stored in another type than their sums, as 16-bit floats are."""
    return DTYPES[dtype].itemsize == 2


def bytes_to_round(dtype: Dtype) -> int:
    """Bytes per number that `make` takes while it works, beside its argument and its result."""
    return 9 if dtype == "bfloat16" else 0  # the bits, the carry, whether it is NaN


def accumulator_of(dtype: Dtype) -> DtypeEntry:
    """The entry of the dtype's accumulator."""
    return DTYPES[DTYPES[dtype].accumulator]


def entry_of_output(dtype: Dtype, output: str) -> DtypeEntry:
    """The entry of an output of a problem in this dtype: its own, or for lse and sums its accumulator's."""
    return accumulator_of(dtype) if output in _ACCUMULATED else DTYPES[dtype]


def listed(dtypes: Iterable[Dtype], joint: str) -> str:
    """The names in a sentence.

    >>> listed(WIDEST_FIRST, "or")
    'float64, float32, bfloat16 or float16'
    """
    *most, last = dtypes
    return f"{', '.join(most)} {joint} {last}" if most else last
