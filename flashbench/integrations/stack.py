"""Whose line a warning is about: that of the user, not of the libraries between."""

from __future__ import annotations

import sys


def level_outside(*prefixes: str) -> int:
    """The stacklevel of the first line outside of modules whose names begin so, for `warnings.warn` in the
    function that calls this.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(prefixes):
        level, frame = level + 1, frame.f_back
    return level
