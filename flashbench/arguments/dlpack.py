"""Arrays of other libraries through DLPack, without a copy: also bfloat16, which NumPy does not import."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.arguments.bfloat16 import BFLOAT16

_UINT, _BFLOAT = 1, 4  # kDLUInt and kDLBfloat of DLPack
_NAME = b"dltensor"  # of a capsule that nobody has consumed yet

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes, _pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p


class _Tensor(ctypes.Structure):
    """The first fields of DLPack's DLTensor, with which a DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Capsule:
    """A capsule that was taken from its library, for `numpy.from_dlpack` to consume."""

    def __init__(self, x: Any) -> None:
        self._device = x.__dlpack_device__()
        self._capsule = x.__dlpack__()
        self.tensor = _Tensor.from_address(_pointer(self._capsule, _NAME))

    @property
    def holds_bfloat16(self) -> bool:
        return bool(self.tensor.code == _BFLOAT and self.tensor.bits == 16)

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> Any:
        return self._device


def from_dlpack(x: Any) -> NDArray[Any]:
    """x as an array on the same memory; one of bfloat16 has the dtype `BFLOAT16`.

    Raises what NumPy raises, or x's library.
    """
    if not str(getattr(x, "dtype", "")).endswith("bfloat16"):  # which NumPy need not try then
        try:
            return np.from_dlpack(x)
        except Exception:
            if not _Capsule(x).holds_bfloat16:
                raise
    capsule = _Capsule(x)
    if not capsule.holds_bfloat16:
        return np.from_dlpack(x)
    capsule.tensor.code = _UINT  # the library made this description for its receiver; the memory stays
    return np.from_dlpack(capsule).view(BFLOAT16)
