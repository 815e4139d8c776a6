"""Counts the calls that flashbench computed in PyTorch's place, and those that it left to PyTorch."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from typing import Literal, NamedTuple

import torch

from flashbench.integrations.stack import level_outside

# Modules on the stack between the user's line and `fell_back`.
_BETWEEN = ("flashbench.integrations.torch.", "torch.overrides")

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_fallbacks: Counter[str] = Counter()


class Stats(NamedTuple):
    """Numbers of calls since the process began, or since `reset_stats`.

    forwards, backwards: calls that flashbench computed, compiled or not.
    fallbacks: calls that went to PyTorch's own kernel, by reason. Under `torch.compile` a call counts once,
    when it is traced.
    """

    forwards: int
    backwards: int
    fallbacks: dict[str, int]


def stats() -> Stats:
    """How many calls flashbench computed, and how many went to PyTorch and why."""
    with _lock:
        return Stats(_counts["forward"], _counts["backward"], dict(_fallbacks))


def reset_stats() -> None:
    """Set all counts to 0. Each reason will be warned of once more."""
    with _lock:
        _counts.clear()
        _fallbacks.clear()


def counted(direction: Literal["forward", "backward"]) -> None:
    with _lock:
        _counts[direction] += 1


@torch.compiler.assume_constant_result  # `torch.compile` calls it while it traces, and does not compile it
def fell_back(reason: str) -> None:
    """Count a call that went to PyTorch, and warn of each reason once."""
    with _lock:
        _fallbacks[reason] += 1
        first = _fallbacks[reason] == 1
    if first:
        warnings.warn(f"flashbench left attention to PyTorch: {reason}", stacklevel=level_outside(*_BETWEEN))
