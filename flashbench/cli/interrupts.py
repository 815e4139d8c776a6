"""Ctrl-C: the exit code it ends with, what it does while nothing has begun, and whether it came.

Nothing is imported here that takes time: this is looked at before anything else.
"""

from __future__ import annotations

import os
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_seen = False


def was_interrupted() -> bool:
    """Whether Ctrl-C came: an error may be what a library made of the KeyboardInterrupt inside it."""
    return _seen


def leave(number: int, frame: FrameType | None) -> None:
    """The handler while there is nothing to put in order: the process ends at once, with one line."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def note(number: int, frame: FrameType | None) -> None:
    """The handler while a command is at work."""
    global _seen
    _seen = True
    raise KeyboardInterrupt
