"""Python functions as operations of XLA on CPUs: they read its arrays and fill its results in place.

XLA calls a C function, which here is one that ctypes makes: nothing is compiled on the user's machine. Where
XLA's interface is of another major version than structs.py describes, `jax.pure_callback` does it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flashbench.integrations.jax import structs

_MAJOR = 0  # of the interface that structs.py describes
# XLA's numbers of dtypes.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_),
    4: np.dtype(np.int32),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
    16: np.dtype(ml_dtypes.bfloat16),
}
Arrays = list[NDArray[Any]]
# compute(arguments, results, options): fills the results. options: a string, the same for equal calls.
Compute = Callable[[Arrays, Arrays, str], None]


class Operation(NamedTuple):
    """An operation of XLA that a Python function computes."""

    name: str
    compute: Compute
    handler: Any  # None: by a callback. XLA has its address, so it must live as long as the process.

    def __call__(
        self, results: Sequence[jax.ShapeDtypeStruct], arguments: Sequence[Any], options: str
    ) -> Sequence[jax.Array]:
        """The results of these arguments. `jax.vmap` adds axes in front of all of them."""
        found: Sequence[jax.Array]
        if self.handler is not None:
            call = jax.ffi.ffi_call(self.name, list(results), vmap_method="broadcast_all")
            found = call(*arguments, options=options)
        else:
            back = functools.partial(_called_back, self.compute, options, list(results), arguments[0].ndim)
            found = jax.pure_callback(back, list(results), *arguments, vmap_method="broadcast_all")
        return found


def operation(name: str, compute: Compute, *, by_callback: bool | None = None) -> Operation:
    """Register the function with XLA. by_callback: None is what XLA allows."""
    version = _version()
    if by_callback or version is None or version[0] != _MAJOR:
        return Operation(name, compute, None)
    handler = structs.Handler(functools.partial(_handle, compute, version))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return Operation(name, compute, handler)


def _version() -> tuple[int, int] | None:
    """Major and minor version of XLA's interface; None: it does not say."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    text = header.read_text() if header.is_file() else ""
    found = [re.search(rf"XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    numbers = [int(x.group(1)) for x in found if x is not None]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _handle(compute: Compute, version: tuple[int, int], frame_at: Any) -> int | None:
    """Answer XLA's question for the version, or compute. Returns an error of XLA's, or None."""
    frame = frame_at.contents
    if frame.extensions:
        extension = ctypes.cast(frame.extensions, ctypes.POINTER(structs.MetadataExtension)).contents
        if extension.base.type == structs.METADATA:
            said = extension.metadata.contents
            said.version.major, said.version.minor = version
            said.traits = 0
            return None
    if frame.stage != structs.EXECUTE:
        return None
    try:
        compute(_arrays(frame.arguments), _arrays(frame.results), _text(frame.attributes))
    except BaseException as error:  # the caller is XLA, in C++
        message = f"{type(error).__name__}: {error}".encode()
        wanted = structs.ErrorToCreate(
            ctypes.sizeof(structs.ErrorToCreate), None, message, structs.INVALID_ARGUMENT
        )
        made: int | None = frame.api.contents.create_error(ctypes.byref(wanted))
        return made
    return None


def _arrays(buffers: Any) -> Arrays:
    found = []
    for i in range(buffers.size):
        buffer = buffers.buffers[i].contents
        shape, dtype = tuple(buffer.dims[: buffer.rank]), _DTYPES[buffer.dtype]
        size = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(buffer.data) if size else b""
        found.append(np.ndarray(shape, dtype, memory))
    return found


def _text(attributes: Any) -> str:
    """The one attribute."""
    value = attributes.values[0].contents
    return ctypes.string_at(value.at, value.size).decode()


def _called_back(
    compute: Compute, options: str, results: list[jax.ShapeDtypeStruct], rank: int, *arguments: Any
) -> Arrays:
    """What `pure_callback` calls. rank: of the first argument without vmap's axes, which are in front."""
    given = [np.asarray(x) for x in arguments]
    lead = given[0].shape[: given[0].ndim - rank]
    made = [np.empty((*lead, *x.shape), x.dtype) for x in results]
    compute(given, made, options)
    return made
