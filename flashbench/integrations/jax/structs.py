"""What XLA passes to a handler of its foreign function interface: the structs of xla/ffi/api/c_api.h.

Each struct begins with its own size and a chain of extensions. XLA adds fields at the end only.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, ClassVar

EXECUTE = 3  # the stage in which a handler computes
METADATA = 1  # the extension by which XLA asks for a handler's version
STRING = 4  # kind of attribute
INVALID_ARGUMENT = 3  # error code


class _Struct(ctypes.Structure):
    """Begins as all of them do."""

    _fields_: ClassVar[Any] = (("struct_size", c_size_t), ("extensions", c_void_p))


class Extension(ctypes.Structure):
    """A link of the chain of extensions."""

    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p))


class Version(_Struct):
    """Of the interface."""

    _fields_ = (("major", c_int), ("minor", c_int))


class Metadata(ctypes.Structure):
    """What a handler says of itself."""

    _fields_ = (("struct_size", c_size_t), ("version", Version), ("traits", ctypes.c_uint32))


class MetadataExtension(ctypes.Structure):
    """The place where it says so."""

    _fields_ = (("base", Extension), ("metadata", POINTER(Metadata)))


class Buffer(_Struct):
    """An array in row-major order."""

    _fields_ = (("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", POINTER(c_int64)))


class Buffers(_Struct):
    """The arguments of a call, or its results."""

    _fields_ = (("size", c_int64), ("types", c_void_p), ("buffers", POINTER(POINTER(Buffer))))


class Bytes(ctypes.Structure):
    """A string attribute."""

    _fields_ = (("at", c_void_p), ("size", c_size_t))


class Attributes(_Struct):
    """Sorted by name."""

    _fields_ = (
        ("size", c_int64),
        ("types", POINTER(c_int)),
        ("names", c_void_p),
        ("values", POINTER(POINTER(Bytes))),
    )


class ErrorToCreate(_Struct):
    """The arguments of `Api.create_error`."""

    _fields_ = (("message", c_char_p), ("code", c_int))


CreateError = ctypes.CFUNCTYPE(c_void_p, POINTER(ErrorToCreate))


class Api(_Struct):
    """The first of XLA's own functions."""

    _fields_ = (("version", Version), ("internal", c_void_p), ("create_error", CreateError))


class CallFrame(_Struct):
    """One call of a handler."""

    _fields_ = (
        ("api", POINTER(Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", Buffers),
        ("results", Buffers),
        ("attributes", Attributes),
    )


Handler: Any = ctypes.CFUNCTYPE(c_void_p, POINTER(CallFrame))
