"""The standard streams, which may be closed from the start, or lose their reader during the run."""

from __future__ import annotations

import contextlib
import io
import os
import sys

from flashbench.errors import ConfigError
from flashbench.texts import ERRORS

READER_LEFT = 141  # 128 + SIGPIPE, as in shells: a script must not take it for a verdict


def prepare_streams() -> None:
    """Point closed streams at /dev/null, and let open ones write any text."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # This opens the lowest free descriptor. A results file or a worker's pipe must not get it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without a character shows a question mark for it, not a traceback.
            stream.reconfigure(errors=ERRORS)


def finish_streams() -> None:
    """Flush stdout. Raises OSError here, because at exit Python would only print it."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_streams()
        raise


def silence_streams() -> None:
    """Discard what stdout and stderr have not written yet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # it has no descriptor
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def check_output(path: str | None) -> None:
    """Raise FlashbenchError if that file, or stdout for "-", cannot be written to."""
    if path == "-":
        if sys.__stdout__ is None:
            raise ConfigError("'-' asks for output on stdout, which is closed", hint="name a file")
    elif path is not None:
        from flashbench.results.store import check_writable  # here: loads msgspec, which --help must not

        check_writable(path)


def write_output(path: str, text: str) -> None:
    """Write the text to that file, or to stdout if it is "-". Raises ResultsError."""
    if path == "-":
        sys.stdout.write(text)
    else:
        from flashbench.results.store import write_whole  # here: loads msgspec, which --help must not

        write_whole(path, text.encode())


def same_file(path: str, other: str) -> bool:
    """Whether two names mean the same file; `-` is stdout."""
    return path == other if "-" in (path, other) else os.path.realpath(path) == os.path.realpath(other)


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")
