"""Ctrl-C: its exit code, its handlers before and during a command, and whether it came.

Imports here must be fast: this module is the first to run.
"""

from __future__ import annotations

import os
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_came = False


def was_interrupted() -> bool:
    """Whether Ctrl-C came. A library may have turned the KeyboardInterrupt into an error of its own."""
    return _came


def leave(number: int, frame: FrameType | None) -> None:
    """The handler while there is nothing to clean up: print one line and end the process at once."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def note(number: int, frame: FrameType | None) -> None:
    """The handler while a command runs."""
    global _came
    _came = True
    raise KeyboardInterrupt
