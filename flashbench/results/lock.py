"""One run at a time writes a results file: a lock file beside it, which ends with its process."""

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

# Errors of a file system without locks, such as some network mounts.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_POLL_S = 0.02


class FileLock:
    """The exclusive right of this process to write the file at `path`, until `release`.

    The operating system holds the lock on an open file, `.flashbench-<16 hex digits>.lock` in the same
    directory. So the end of the process ends the lock, even by a kill, and a leftover file locks nothing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises ResultsError when another run has the lock, or when the directory cannot hold a lock file.

        On a file system without locks it warns, and locks nothing.
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
            else:  # its owner removed the file after we opened it: another run may have a new file by now
                os.close(descriptor)

    def release(self) -> None:
        """Let others write. Remove the lock file while it is locked: later it could be another run's."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if sys.platform != "win32":
            self._lock.unlink(missing_ok=True)
        os.close(descriptor)
        if sys.platform == "win32":  # Windows cannot remove an open file
            with contextlib.suppress(OSError):  # another run has opened it by now, and keeps it
                self._lock.unlink(missing_ok=True)

    def _open(self, path: str | os.PathLike[str]) -> int:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ResultsError(f"cannot lock {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def exclusively(path: str | os.PathLike[str], *, wait_s: float = 10.0) -> Iterator[None]:
    """Wait for the lock and hold it for the body: for a file that the body reads and rewrites.

    Raises ResultsError if the lock is not free after `wait_s` seconds.
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
    """The path of a file's lock. NAME.json and its growing sibling NAME.partial.json share one lock.

    The lock's name is a digest, because the file's own name may already have the longest legal length.
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
    """Raises OSError at once when another process has the lock."""
    if sys.platform == "win32":
        import msvcrt

        module: Any = msvcrt
        module.locking(descriptor, module.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
