"""Callers' arrays as aligned NumPy views: NumPy arrays, or any CPU array with `__dlpack__`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flashbench.arguments.bfloat16 import as_patterns, from_patterns, is_bfloat16
from flashbench.arguments.dlpack import from_dlpack
from flashbench.dtypes import DTYPES, WIDEST_FIRST, Dtype, accumulator_of, listed
from flashbench.engines import Array
from flashbench.errors import AttentionError

# By the dtype of arrays that callers pass. bfloat16 has no dtype of NumPy: `dtype_of` adds it.
_NAMES: dict[np.dtype[Any], Dtype] = {np.dtype(name): name for name in DTYPES if name != "bfloat16"}
KNOWN_DTYPES = listed(WIDEST_FIRST, "or")
_CPU = 1  # kDLCPU of DLPack


def as_array(name: str, x: Any) -> Array:
    """The argument as an aligned ndarray, copied only if it is not aligned. Raises AttentionError."""
    if type(x) is not np.ndarray:
        x = _foreign_array(name, x)
    # Strides of an aligned array are whole elements, and engines rely on that.
    return cast(Array, x if x.flags.aligned else x.copy())


def as_whole_numbers(name: str, x: Any) -> NDArray[np.integer]:
    """An array or a (nested) list of whole numbers as an array, in its own dtype. Raises AttentionError."""
    if isinstance(x, (list, tuple)):
        try:
            found = np.asarray(x)
        except ValueError:  # rows of different lengths
            raise AttentionError(f"{name} must have rows of one length, not {x!r}") from None
    else:
        found = np.asarray(as_array(name, x))
    if found.size and found.dtype.kind not in "iu":
        raise AttentionError(f"{name} must hold whole numbers, not {found.dtype}")
    return found if found.size else found.astype(np.int64)


def dtype_of(dtype: np.dtype[Any]) -> Dtype | None:
    """The name of the dtype of a caller's array in the table; None: it is not there."""
    found = _NAMES.get(dtype)
    if found is None and is_bfloat16(dtype):
        found = _NAMES[dtype] = "bfloat16"
    return found


def check_dtype(name: str, x: Array) -> Dtype:
    """The dtype of x. Raises AttentionError unless the table has it, in this machine's byte order."""
    dtype = dtype_of(x.dtype)
    if dtype is not None:
        return dtype
    if x.dtype.newbyteorder("=") in _NAMES:
        raise AttentionError(
            f"{name} must be in this machine's byte order, not {x.dtype.str!r}",
            hint=f"{name}.astype({name}.dtype.newbyteorder('='))",
        )
    raise AttentionError(
        f"{name} must be {KNOWN_DTYPES}, not {x.dtype}",
        hint=f"{name}.view(ml_dtypes.bfloat16), if these are bit patterns" if x.dtype == np.uint16 else None,
    )


def check_same_dtype(name: str, x: Array, like: str, dtype: Dtype) -> None:
    """Raise AttentionError unless x has `dtype`, which is the dtype of the argument named `like`."""
    own = check_dtype(name, x)
    if own != dtype:
        raise _mixed(name, own, like, dtype, (dtype,))


def as_accumulator(name: str, x: Array, like: str, dtype: Dtype, *, only: bool = False) -> Array:
    """x in the accumulator of `dtype`, which is the dtype of the argument named `like`.

    An array of 16-bit numbers is converted; its broadcast axes stay broadcast. only: refuse it.
    Raises AttentionError.
    """
    own, accumulator = check_dtype(name, x), DTYPES[dtype].accumulator
    if own == accumulator:
        return x
    if own != dtype or only:
        raise _mixed(name, own, like, dtype, (accumulator,) if only else (accumulator, dtype))
    return widened(x, own)


def in_storage(name: str, x: Array, like: str, dtype: Dtype) -> Array:
    """x in `dtype`, which is the dtype of the thing named `like`, as callers pass such arrays.

    Numbers in its accumulator are rounded. Raises AttentionError.
    """
    own, accumulator = check_dtype(name, x), DTYPES[dtype].accumulator
    if own not in (dtype, accumulator):
        raise _mixed(name, own, like, dtype, (accumulator, dtype))
    return as_published(as_stored(x, own) if own == dtype else DTYPES[dtype].make(x), dtype)


def widened(x: Array, dtype: Dtype) -> Array:
    """An array of 16-bit numbers of `dtype` as their accumulators. Its broadcast axes stay broadcast."""
    own = x[tuple(slice(None if step else 1) for step in x.strides)]
    return np.broadcast_to(DTYPES[dtype].view(as_stored(own, dtype)), x.shape)


def as_stored(x: Array, dtype: Dtype) -> Array:
    """A caller's array of `dtype` as engines store it, on the same memory."""
    return as_patterns(x) if dtype == "bfloat16" else x


def as_published(x: Array, dtype: Dtype) -> Array:
    """An engine's array of `dtype` as callers want it, on the same memory.

    Raises EngineError if it needs ml_dtypes, and that is not installed.
    """
    return from_patterns(x) if dtype == "bfloat16" else x


def accumulator_dtype(dtype: Dtype) -> np.dtype[Any]:
    """NumPy's dtype of sums, lse and masks of a problem in `dtype`."""
    return np.dtype(accumulator_of(dtype).storage)


def _mixed(name: str, own: Dtype, like: str, dtype: Dtype, wanted: tuple[Dtype, ...]) -> AttentionError:
    rule = "they must be the same"
    if set(wanted) != {dtype}:
        rule = f"{name} must be {' or '.join(wanted)}"
    return AttentionError(f"{name} has dtype {own}, {like} has {dtype}: {rule}")


def _foreign_array(name: str, x: Any) -> np.ndarray[Any, Any]:
    if isinstance(x, np.ma.MaskedArray):
        raise AttentionError(
            f"{name} is a masked array, whose mask would be ignored", hint=f"{name}.filled(...)"
        )
    if isinstance(x, np.ndarray):  # memmap and other subclasses
        return x.view(np.ndarray)
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise AttentionError(
            f"{name} must be a NumPy array or another with __dlpack__, not {type(x).__name__}",
            hint=f"numpy.asarray({name})",
        )
    try:
        device, _ = x.__dlpack_device__()
        if device != _CPU:
            raise AttentionError(
                f"{name} must be in CPU memory, not on DLPack device type {int(device)}", hint=f"{name}.cpu()"
            )
        return from_dlpack(x)
    except AttentionError:
        raise
    except Exception as error:  # each library raises its own types
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AttentionError(
            f"{name} ({type(x).__name__}) cannot be shared through DLPack: {message}"
        ) from error
