"""Finds the user's line for a warning, past the libraries between."""

from __future__ import annotations

import sys


def level_outside(*prefixes: str) -> int:
    """The stacklevel of the first caller outside the modules whose names begin with one of `prefixes`.

    It is right for `warnings.warn` in the function that calls this one.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(prefixes):
        level, frame = level + 1, frame.f_back
    return level
