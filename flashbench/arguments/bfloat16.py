"""bfloat16 at the door: NumPy has no such dtype. Engines see the bit patterns, callers ml_dtypes' dtype."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.dtypes import DTYPES
from flashbench.errors import EngineError

# Of arrays whose library is not ml_dtypes, which need not be installed: the bit patterns under their name.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)], align=True)
_STORAGE = np.dtype(DTYPES["bfloat16"].storage)


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether it is `BFLOAT16`, or ml_dtypes' bfloat16. ml_dtypes is not imported."""
    return dtype == BFLOAT16 or (dtype.kind == "V" and dtype.name == "bfloat16")


def as_patterns(x: NDArray[Any]) -> NDArray[Any]:
    """An array of bfloat16 as bit patterns, uint16, on the same memory."""
    return x.view(_STORAGE)


def from_patterns(x: NDArray[Any]) -> NDArray[Any]:
    """Bit patterns as an array of ml_dtypes.bfloat16, on the same memory.

    Raises EngineError if ml_dtypes is not installed.
    """
    return x.view(_of_ml_dtypes())


@functools.cache
def _of_ml_dtypes() -> np.dtype[Any]:
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise EngineError(
            "NumPy has no bfloat16, and ml_dtypes, which gives it one, is not installed",
            hint="pip install 'flashbench[half]'",
        ) from error
    found: np.dtype[Any] = np.dtype(bfloat16)
    return found
