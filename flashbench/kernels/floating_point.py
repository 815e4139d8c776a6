"""The floating-point mode of a thread: rounding, and whether denormals are flushed to zero.

A caller may have set its own (`torch.set_flush_denormal(True)`), which other threads do not have. The threads
of a call compute in their caller's, so that results do not depend on who computed what.
"""

from __future__ import annotations

import ctypes
from typing import Any

MODE_BYTES = 64  # C's fenv_t is 8 to 32 bytes long
_Room = ctypes.c_char * MODE_BYTES


def _functions() -> tuple[Any, Any]:
    """C's fegetenv and fesetenv, called with the GIL held as they take nanoseconds; (None, None) without."""
    try:
        library = ctypes.PyDLL(None)  # Windows has no such thing
        functions = library.fegetenv, library.fesetenv
    except (TypeError, OSError, AttributeError):
        return None, None
    for function in functions:
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
    return functions


_get, _set = _functions()


def mode_addresses() -> tuple[int, int]:
    """Where fegetenv and fesetenv are, for machine code; zeros where the system has none."""
    if _get is None:
        return 0, 0
    get, put = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in (_get, _set))
    return get, put


class Mode:
    """The mode that the thread which makes it is in."""

    def __init__(self) -> None:
        self._kept = _Room()
        self.address = ctypes.addressof(self._kept)
        if _get is not None:
            _get(self.address)

    def adopt(self) -> None:
        """Put the calling thread into this mode."""
        if _set is not None:
            _set(self.address)
