"""Workloads for the tests of measure: good ones, and ones with every failure that a worker must survive."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from flashbench.errors import UnsupportedError


class Fake:
    """A workload from one function. The function's result stays alive until the next call."""

    def __init__(self, call: Callable[[], Any], output_bytes: int = 0) -> None:
        self._call = call
        self._output_bytes = output_bytes
        self._output: Any = None
        self.calls = 0

    def call(self) -> None:
        self._output = None
        self._output = self._call()
        self.calls += 1

    def forget(self) -> None:
        self._output = None

    def check(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def describe(self) -> dict[str, Any]:
        return {"output_bytes": self._output_bytes}


def build(behaviour: str, **arguments: Any) -> Fake:
    """The fake of that name. It fails from the second call on, so that `prepare` succeeds."""
    action = globals()[f"_{behaviour}"]
    calls = 0

    def call() -> Any:
        nonlocal calls
        calls += 1
        return action(**arguments) if calls > 1 else None

    return Fake(call)


def build_failing(behaviour: str) -> Fake:
    """The fake of that name. It fails at once."""
    return Fake(globals()[f"_{behaviour}"])


def build_environment() -> Fake:
    """A fake whose check returns the thread settings with which its process started."""
    fake = Fake(_sleep)
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    fake.check = lambda: {name: os.environ[name] for name in names}
    return fake


def build_temporaries(temporaries: int, output: int) -> Fake:
    """Allocates two NumPy temporaries at a time, frees them, then makes its output."""

    def call() -> Any:
        first, second = np.ones(temporaries // 2, np.uint8), np.ones(temporaries // 2, np.uint8)
        del first, second
        return np.ones(output, np.uint8)

    return Fake(call, output)


def build_growing(size: int, threads: int) -> Fake:
    """Allocates `size` bytes, touches them from several threads, and frees them."""
    pool = ThreadPoolExecutor(threads)
    all_hold = threading.Barrier(threads, timeout=20)

    def hold() -> None:
        buffer = np.ones(size // threads, np.uint8)
        all_hold.wait()
        del buffer

    def call() -> None:
        for future in [pool.submit(hold) for _ in range(threads)]:
            future.result()

    return Fake(call)


def _sleep(seconds: float = 0.0) -> None:
    time.sleep(seconds)


def _throttled(stat: str) -> None:
    Path(stat).write_text("nr_throttled 8\n")


def _segfault() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    print("terminate called for a test", file=sys.stderr, flush=True)
    os.abort()


def _exit() -> None:
    os._exit(3)


def _sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _memory_error() -> None:
    np.empty(1 << 62, np.uint8)


def _unsupported() -> None:
    raise UnsupportedError("head_dim must be at most 4, not 5")


def _error() -> None:
    raise ValueError("first line\nsecond line")


def _system_exit() -> None:
    sys.exit("enough")


def _junk() -> None:
    os.write(1, b'{"status": "ok", "data": {}}\nno newline')
    print("junk on stdout", flush=True)
    sys.stdin.read()


def _spin() -> None:
    """Leaves a spinning thread behind, like an OpenMP pool after its last call."""
    threading.Thread(target=_forever, daemon=True).start()


def _forever() -> None:
    while True:
        pass
