"""The standard streams: closed before the command began, or left by their reader while it runs."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from flashbench.errors import ConfigError
from flashbench.texts import ERRORS

READER_LEFT = 141  # 128 + SIGPIPE, as shells have it: no other exit code may be taken for a verdict


def prepare_streams() -> None:
    """Let closed streams lead to /dev/null, and open ones write any text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, which would else become a results file's, or a worker's pipe.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a sign shows a question mark for it, not a traceback.
            stream.reconfigure(errors=ERRORS)


def finish_streams() -> None:
    """Write what stdout still holds back. Raises OSError, once: at the exit Python would only print it."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_streams()
        raise


def silence_streams() -> None:
    """Let what is still to be written to stdout and stderr lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # not a stream of the system
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def check_output(path: str | None) -> None:
    """Raise FlashbenchError now if nothing could be written to that file, or to stdout where it is "-"."""
    if path == "-":
        if sys.__stdout__ is None:
            raise ConfigError("'-' asks for output on stdout, which is closed", hint="name a file")
    elif path is not None:
        from flashbench.results.store import check_writable  # here: loads msgspec, which --help must not

        check_writable(path)


def same_file(path: str, other: str) -> bool:
    """Whether two names of files to write are of one file, `-` being stdout."""
    return path == other if "-" in (path, other) else os.path.realpath(path) == os.path.realpath(other)


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")
