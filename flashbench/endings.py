"""Ends of `with` blocks that no exception can skip, because they are one call into C.

CPython runs signal handlers, and delivers exceptions set for a thread, between bytecodes. A `finally` block
and an `__exit__` written in Python begin with bytecodes, so a second exception can get out of them before
they have done anything. Between an exception inside a `with` block and a C function as its `__exit__` there
is no such place, nor between the block's normal end and that call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_void_p, py_object
from typing import Any

# What a block may end with: void f(void *argument, PyObject *kind, PyObject *error, PyObject *traceback),
# called without the GIL. It returns nothing, so it suppresses no exception.
ENDING = CFUNCTYPE(None, c_void_p, py_object, py_object, py_object)


class Ending:
    """`with` it, and the block ends with function(argument): always, once, whole.

    function: an `ENDING`. It must not depend on the GIL, nor fail.
    """

    # `with` finds both through the descriptors of these slots, which are C as well, and calls what they hold.
    __slots__ = ("__enter__", "__exit__")

    __enter__: Any
    __exit__: Any

    def __init__(self, function: Callable[..., None], argument: int) -> None:
        self.__enter__ = int  # any C function that takes nothing
        self.__exit__ = functools.partial(function, argument)
