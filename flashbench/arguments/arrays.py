"""Callers' arrays as aligned NumPy views: NumPy arrays, or any CPU array with `__dlpack__`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flashbench.dtypes import DTYPES, WIDEST_FIRST, Dtype, listed
from flashbench.engines import Array
from flashbench.errors import AttentionError

# By the dtype of arrays that callers pass.
DTYPE_NAMES: dict[np.dtype[Any], Dtype] = {np.dtype(name): name for name in DTYPES}
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


def check_dtype(name: str, x: Array) -> None:
    """Raise AttentionError unless x has a dtype of the table, in this machine's byte order."""
    if x.dtype in DTYPE_NAMES:
        return
    if x.dtype.newbyteorder("=") in DTYPE_NAMES:
        raise AttentionError(
            f"{name} must be in this machine's byte order, not {x.dtype.str!r}",
            hint=f"{name}.astype({name}.dtype.newbyteorder('='))",
        )
    raise AttentionError(f"{name} must be {KNOWN_DTYPES}, not {x.dtype}")


def check_same_dtype(name: str, x: Array, like: str, dtype: np.dtype[Any]) -> None:
    """Raise AttentionError unless x has `dtype`, which is the dtype of the argument named `like`."""
    check_dtype(name, x)
    if x.dtype != dtype:
        raise AttentionError(f"{name} has dtype {x.dtype}, {like} has {dtype}: they must be the same")


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
        return np.from_dlpack(x)
    except AttentionError:
        raise
    except Exception as error:  # each library raises its own types
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AttentionError(
            f"{name} ({type(x).__name__}) cannot be shared through DLPack: {message}"
        ) from error
