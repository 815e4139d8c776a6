"""Where the command `flashbench` begins: Ctrl-C ends it with 130 and one line, from its first moment on.

Nothing is imported here that takes time: until `app` is there, and after it is done, there is nothing to
put in order, so that the process leaves at once.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_seen = False


def main() -> int:
    """Run the command line of this process and return its exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not in `nohup` and the like
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from flashbench.cli.app import main as run

    if ours:
        signal.signal(signal.SIGINT, _note)
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    finally:
        if ours:
            signal.signal(signal.SIGINT, _leave)
    return code


def was_interrupted() -> bool:
    """Whether Ctrl-C came: an error may be what a library made of the KeyboardInterrupt inside it."""
    return _seen


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _note(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
