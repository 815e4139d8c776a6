"""`compiled`: njit with machine code kept under the user's cache directory, never stale.

Numba's own cache watches the file of a function alone, so an edit to a file it calls leaves stale
machine code, and it writes beside the source, which a read-only install forbids. This one names each
entry by a hash of everything it depends on: the sources of its floor and of codegen, versions, target CPU
and signature.
An entry therefore never changes; there is no index to corrupt and no race between processes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit
from numba.core import config
from numba.core.caching import _Cache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from platformdirs import user_cache_path

from flashbench.system.numba_settings import without_compiler

_CHECKSUM_BYTES = 32
_NO_HOME = "the user has no home directory: HOME is not set, and the system knows none"

if config.DISABLE_JIT:  # by the program itself, or by Numba's file of settings
    raise without_compiler("numba.config.DISABLE_JIT is set")


def cache_directory() -> Path:
    """$FLASHBENCH_CACHE_DIR, or the user's cache directory.

    Raises OSError where there is none: a user without a home, as in many containers.
    """
    chosen = chosen_directory("FLASHBENCH_CACHE_DIR")
    if chosen is not None:
        return chosen
    try:
        path = user_cache_path("flashbench", appauthor=False)
    except RuntimeError as error:
        raise OSError(_NO_HOME) from error
    if not path.is_absolute():  # what older releases of platformdirs make of no home
        raise OSError(_NO_HOME)
    return path


def chosen_directory(variable: str) -> Path | None:
    """What an environment variable names, None if it is unset or empty.

    A "~" is replaced, for in a Dockerfile or a unit of systemd no shell has done so. Raises OSError where
    there is no home to put there.
    """
    chosen = os.environ.get(variable)
    try:
        return Path(chosen).expanduser() if chosen else None
    except RuntimeError as error:
        raise OSError(f"{variable} is {chosen}, and {_NO_HOME}") from error


_PACKAGE = Path(__file__).parents[1]


@functools.cache
def hash_of_sources(floor: str) -> str:
    """Of the sources of a floor, "kernels" or "threads", and of codegen, with their sub-packages."""
    digest = hashlib.sha256()
    for path in sorted(path for part in ("codegen", floor) for path in (_PACKAGE / part).rglob("*.py")):
        name = path.relative_to(_PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


# What is measured of kernels of one hash holds for no other. An edit of the thread pool is none of theirs.
KERNEL_SOURCES = hash_of_sources("kernels")
_VERSIONS = (numba.__version__, llvmlite.__version__, sys.version_info[:3])
_warned: set[str] = set()


class _KernelCache(_Cache):
    """One file per function, signature and target, named by its key."""

    def __init__(self, function: Callable[..., Any], variant: str = "") -> None:
        self._function = function
        self._variant = variant
        self._enabled = True
        floor = "threads" if function.__module__.startswith("flashbench.threads.") else "kernels"
        self._sources = hashlib.sha256(repr((hash_of_sources(floor), _VERSIONS)).encode()).hexdigest()

    @property
    def cache_path(self) -> str:
        return str(cache_directory() / "kernels" / self._sources[:16])

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        for path in Path(self.cache_path).glob(f"{self._function.__name__}-*.bin"):
            path.unlink(missing_ok=True)

    def _path(self, signature: Any, codegen: Any) -> Path:
        name = f"{self._function.__module__}.{self._function.__qualname__}"
        key = hashlib.sha256(
            repr((self._sources, name, self._variant, str(signature), codegen.magic_tuple())).encode()
        ).hexdigest()
        return Path(self.cache_path) / f"{self._function.__name__}-{key[:32]}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        if not self._enabled:
            return None
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
        except TimeoutError:  # of a signal handler, for a deadline
            raise
        except OSError:  # not there yet, or not readable: compile
            return None
        checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(payload).digest() != checksum:  # truncated by a full disk or damaged
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self._enabled:
            return
        payload = dumps(data._reduce())
        try:
            path = self._path(sig, data.codegen)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, hashlib.sha256(payload).digest() + payload)
        except TimeoutError:
            raise
        except OSError as error:
            _warn_once(error)


def _write_whole(path: Path, content: bytes) -> None:
    """In one step, for other processes may be reading; nothing is left behind where that fails."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:  # a full disk, Ctrl-C
        Path(temporary).unlink(missing_ok=True)
        raise


def _warn_once(error: OSError) -> None:
    """Once by a rule of our own: Numba enters catch_warnings at each compilation, after which Python no
    longer knows what it has said.
    """
    try:
        place = f" in {cache_directory()}"
    except OSError:
        place = ""
    message = (
        f"compiled kernels cannot be kept{place} ({error.strerror or error}): every process will compile "
        "them again; set FLASHBENCH_CACHE_DIR to a writable directory"
    )
    if message not in _warned:
        _warned.add(message)
        # Line 0 is none that Python could quote below it.
        warnings.warn_explicit(message, RuntimeWarning, __file__, 0, module=__name__)


def compiled(function: Callable[..., Any], *, variant: str = "") -> Any:
    """Compile at the first call of each signature, without the GIL, and keep the machine code on disk.

    variant: what tells the function apart from others of its name that enclose other values.
    error_model="numpy": a division by zero gives inf or NaN, as kernels have nobody to raise to.
    """
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _KernelCache(function, variant)  # what cache=True does, with a cache of our own
    return dispatcher


def compiled_callback(function: Callable[..., Any], signature: Any) -> Any:
    """The same for a function that C code calls by its `address`; compiled, or found on disk, now."""
    callback: Any = CFunc(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    callback._cache = _KernelCache(function)
    callback.compile()
    return callback
