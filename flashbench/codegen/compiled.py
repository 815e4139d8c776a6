"""`compiled`: njit, with machine code in the user's cache directory that is never stale.

Numba's own cache checks only the file of the function. After an edit to a file that the function calls, its
machine code is stale. It also writes next to the source, which a read-only install forbids. This cache names
each entry by a hash of everything that it depends on: the sources of its package ("kernels" or "threads") and
of codegen, versions, target CPU and signature. So an entry never changes, no index can be corrupted, and
processes cannot race.
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

if config.DISABLE_JIT:  # set by the program, or by Numba's configuration file
    raise without_compiler("numba.config.DISABLE_JIT is set")


def cache_directory() -> Path:
    """$FLASHBENCH_CACHE_DIR, or the user's cache directory.

    Raises OSError if there is none: the user has no home directory, as in many containers.
    """
    chosen = chosen_directory("FLASHBENCH_CACHE_DIR")
    if chosen is not None:
        return chosen
    try:
        path = user_cache_path("flashbench", appauthor=False)
    except RuntimeError as error:
        raise OSError(_NO_HOME) from error
    if not path.is_absolute():  # older releases of platformdirs return this without a home
        raise OSError(_NO_HOME)
    return path


def chosen_directory(variable: str) -> Path | None:
    """The directory that an environment variable names; None if it is not set, or empty.

    "~" is expanded, because no shell does that in a Dockerfile or a systemd unit. Raises OSError if the user
    has no home directory for it.
    """
    chosen = os.environ.get(variable)
    try:
        return Path(chosen).expanduser() if chosen else None
    except RuntimeError as error:
        raise OSError(f"{variable} is {chosen}, and {_NO_HOME}") from error


_PACKAGE = Path(__file__).parents[1]


@functools.cache
def hash_of_sources(floor: str) -> str:
    """SHA-256 of the sources of codegen and of one package, "kernels" or "threads", with sub-packages."""
    digest = hashlib.sha256()
    for path in sorted(path for part in ("codegen", floor) for path in (_PACKAGE / part).rglob("*.py")):
        name = path.relative_to(_PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


# Measurements of kernels with one hash are not valid for another hash. The thread pool is not part of it.
KERNEL_SOURCES = hash_of_sources("kernels")
_VERSIONS = (numba.__version__, llvmlite.__version__, sys.version_info[:3])
_warned: set[str] = set()


class _KernelCache(_Cache):
    """One file per function, signature and target, named by its key."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
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
            repr((self._sources, name, str(signature), codegen.magic_tuple())).encode()
        ).hexdigest()
        return Path(self.cache_path) / f"{self._function.__name__}-{key[:32]}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        if not self._enabled:
            return None
        target_context.refresh()
        try:
            content = self._path(sig, target_context.codegen()).read_bytes()
        except TimeoutError:  # from a signal handler, for a deadline
            raise
        except OSError:  # missing or not readable: compile
            return None
        checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if hashlib.sha256(payload).digest() != checksum:  # truncated by a full disk, or damaged
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
    """Write the file in one step, as other processes may read it. A failure leaves no file behind."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:  # a full disk, Ctrl-C
        Path(temporary).unlink(missing_ok=True)
        raise


def _warn_once(error: OSError) -> None:
    """Warn once per message. Python cannot do that here: Numba enters catch_warnings at each compilation, and
    Python then forgets which warnings it has shown.
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
        # With line 0 Python prints no source line below the warning.
        warnings.warn_explicit(message, RuntimeWarning, __file__, 0, module=__name__)


def compiled(function: Callable[..., Any], *, variant: str = "") -> Any:
    """Compile at the first call of each signature, and keep the machine code on disk. It runs without the
    GIL.

    variant: distinguishes functions with the same name that enclose different values.
    error_model="numpy": a division by zero gives inf or NaN, as kernels cannot raise.
    """
    if variant:  # in the names of symbols too, so that one process can load several
        function.__qualname__ = f"{function.__qualname__}.{variant}"
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _KernelCache(function)  # cache=True does the same, with Numba's own cache
    return dispatcher


def compiled_callback(function: Callable[..., Any], signature: Any) -> Any:
    """A function that C code calls by its `address`. It is compiled, or loaded from disk, at once."""
    callback: Any = CFunc(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    callback._cache = _KernelCache(function)
    callback.compile()
    return callback
