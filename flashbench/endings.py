"""Ends of `with` blocks that no exception can skip, because they are one call into C.

CPython runs signal handlers between bytecodes, and raises exceptions set by another thread there too.
A `finally` block and a Python `__exit__` begin with bytecodes, so a second exception can leave them before
they do anything. If `__exit__` is a C function, no bytecode lies between the block's end and the call. That
holds for a normal end and for an exception.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_void_p, py_object
from typing import Any

# void f(void *argument, PyObject *kind, PyObject *error, PyObject *traceback), called without the GIL.
# It returns nothing, so it suppresses no exception.
ENDING = CFUNCTYPE(None, c_void_p, py_object, py_object, py_object)


class Ending:
    """A context manager that calls function(argument) at the end of its block: always, once, completely.

    function: an `ENDING`. It must not need the GIL, and must not fail.
    """

    # `with` reads both methods through the slots' descriptors, which are C as well.
    __slots__ = ("__enter__", "__exit__")

    __enter__: Any
    __exit__: Any

    def __init__(self, function: Callable[..., None], argument: int) -> None:
        self.__enter__ = int  # any C function that takes nothing
        self.__exit__ = functools.partial(function, argument)
