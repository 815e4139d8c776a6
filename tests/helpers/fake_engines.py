"""Engines for tests of studies: NumPy's engine, made wrong or deadly in one of many calls."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from flashbench.engines import Array, Forward, Layout, Ran, Settings
from flashbench.engines.peers.numpy import NumpyEngine
from flashbench.problem import AttentionProblem, Direction, Feature
from helpers import plugins

ENGINES = ("Right", "Wrong", "NotANumber", "Unsupporting", "Blocked", "Segfaulting", "Killed")
ENGINES += ("OutOfMemory", "Hanging", "Printing", "DyingOfBlocks", "Untellable", "Slow", "Slower")
ENGINES += ("Lean", "Plain")


def install(directory: Path) -> None:
    """Make a plug-in package in the directory. It offers these engines by entry points."""
    plugins.offer(directory, {name: f"{__name__}:{name}" for name in ENGINES}, "fake-engines")


def make_known(directory: Path, patch: Any) -> None:
    """Install the engines for this process and its workers; the peak is `build_peak`'s, bursts are short.

    patch: pytest's MonkeyPatch, which undoes it.
    """
    install(directory)
    patch.syspath_prepend(directory)
    patch.setattr("flashbench.studies.peak.FACTORY", f"{__name__}:build_peak")
    patch.setattr("flashbench.studies.bursts.BURST_NS", 0)


class Right(NumpyEngine):
    """Correct and fast, for small problems."""

    @property
    def name(self) -> str:
        return type(self).__name__


class _Misbehaving(Right):
    """Misbehaves in its second call. The first call only compiles, before anything is measured."""

    def __init__(self) -> None:
        self._calls = 0

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        self._calls += 1
        if self._calls > 1:
            self.misbehave(arguments[1])
        return super().forward(*arguments, keep=keep, **options)

    def misbehave(self, settings: Settings) -> None:
        raise NotImplementedError


class Segfaulting(_Misbehaving):
    def misbehave(self, settings: Settings) -> None:
        ctypes.string_at(0)


class Killed(_Misbehaving):
    def misbehave(self, settings: Settings) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class OutOfMemory(_Misbehaving):
    def misbehave(self, settings: Settings) -> None:
        np.empty(1 << 62, np.uint8)


class Hanging(_Misbehaving):
    def misbehave(self, settings: Settings) -> None:
        time.sleep(3600)


class Printing(_Misbehaving):
    def misbehave(self, settings: Settings) -> None:
        os.write(1, b'{"status": "crashed"}\n')
        print("junk", file=sys.stdout, flush=True)


class Wrong(Right):
    """Returns half of the correct values in the last row."""

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        found.o[..., -1, :] *= 0.5
        return found


class Slow(Right):
    """Takes 4 ms longer than it needs, independent of the machine's load."""

    seconds = 0.004

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        time.sleep(self.seconds)
        return super().forward(*arguments, keep=keep, **options)


class Slower(Slow):
    """Twice as long."""

    seconds = 0.008


class NotANumber(Right):
    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        found = super().forward(*arguments, keep=keep, **options)
        found.o[..., 0, 0] = np.nan
        return found


class Lean(Right):
    """Gives no lse, and names its kernel."""

    def __init__(self) -> None:
        self._forwards = 0

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        self._forwards += 1
        return super().forward(*arguments, keep=keep, **options)._replace(lse=None)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        return Ran(f"lean {direction}", f"after {self._forwards} forward")


class Plain(Right):
    """Has no optional feature."""

    features: frozenset[Feature] = frozenset()


class SequenceFirst(Right):
    """Requires the memory order (batch, seqlen, heads, head_dim), and remembers its arguments."""

    layout: Layout = "bshd"

    def __init__(self) -> None:
        self.orders: set[str] = set()

    def _look(self, *arrays: Array) -> None:
        for x in arrays:
            sequence_first = x.swapaxes(1, 2).flags.c_contiguous
            self.orders.add("sequence first" if sequence_first else f"strides {x.strides}")

    def forward(self, *arguments: Any, keep: bool = False, **options: Any) -> Forward:
        self._look(*arguments[2:5])
        return super().forward(*arguments, keep=keep, **options)

    def backward(self, *arguments: Any, **options: Any) -> Any:
        self._look(*arguments[2:6])
        return super().backward(*arguments, **options)


class Unsupporting(Right):
    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        return f"seqlen_q must be odd, not {problem.seqlen_q}"


class Untellable(Right):
    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        return None


class Blocked(Right):
    """Has a choice of blocks."""

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        return settings.block_q or 48, settings.block_k or 24


class DyingOfBlocks(_Misbehaving, Blocked):
    """Dies with blocks of 13, and ends its whole process."""

    def misbehave(self, settings: Settings) -> None:
        if settings.block_q == 13:
            os._exit(1)


def build_peak(dtype: str, threads: int, path: str) -> Any:
    """A known hardware limit: 1000 operations per millisecond."""
    return _Peak()


def build_no_peak(dtype: str, threads: int, path: str) -> Any:
    """A machine whose limit cannot be measured."""
    raise RuntimeError("no multiply-add here")


class _Peak:
    def call(self) -> None:
        time.sleep(0.001)

    def check(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {"flops": 1000}
