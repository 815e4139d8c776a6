"""One run at a time writes a results file: a lock beside it, which ends with its process, killed or not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashbench.errors import ResultsError

# What a file system without locks says, such as some mounted over a network.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_POLL_S = 0.02


class FileLock:
    """The exclusive right of this process to write the file at `path`, from when it is made until `release`.

    The system holds it by an open file, `.flashbench-<16 hex digits>.lock` in the same directory: whatever
    ends the process ends the lock, and a lock file that a killed one leaves behind locks nothing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises ResultsError when another run has it, or no lock can be made in that directory.

        Where the file system has no locks, a warning says so, and nothing is locked.
        """
        self._lock = lock_path(path)
        self._descriptor: int | None = None
        while self._descriptor is None:
            descriptor = self._open(path)
            try:
                _lock(descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    warnings.warn(
                        f"the file system of {path} has no locks: two runs that write it would lose results",
                        stacklevel=2,
                    )
                    return
                raise ResultsError(
                    f"{path} is being written by another run", hint="wait for its end, or name another file"
                ) from error
            if _is_at(descriptor, self._lock):
                self._descriptor = descriptor
            else:  # its owner removed it between our opening and our locking it: another may have a new one
                os.close(descriptor)

    def release(self) -> None:
        """Let others write. The lock file goes while it is still locked, or it could be another's by then."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if sys.platform != "win32":
            self._lock.unlink(missing_ok=True)
        os.close(descriptor)
        if sys.platform == "win32":  # which removes no open file
            with contextlib.suppress(OSError):  # another run has opened it: it is that run's now
                self._lock.unlink(missing_ok=True)

    def _open(self, path: str | os.PathLike[str]) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ResultsError(f"cannot lock {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def exclusively(path: str | os.PathLike[str], *, wait_s: float = 10.0) -> Iterator[None]:
    """Hold the lock for the body, after whoever holds it: for a file that is read and at once written anew.

    Raises ResultsError when it is not free after `wait_s` seconds.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            held = FileLock(path)
            break
        except ResultsError:
            if time.monotonic() > end:
                raise
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        held.release()


def lock_path(path: str | os.PathLike[str]) -> Path:
    """Where the lock of a file is; of its growing sibling NAME.partial.json it is the same.

    By a digest of the name, as the name may be as long as a name can be.
    """
    target = Path(path).resolve()
    stem = target.stem.removesuffix(".partial")
    name = os.path.normcase(f"{stem}{target.suffix}")
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return target.with_name(f".flashbench-{digest}.lock")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    """Raises OSError when another has it, at once."""
    if sys.platform == "win32":
        import msvcrt

        module: Any = msvcrt
        module.locking(descriptor, module.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
