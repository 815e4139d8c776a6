"""What flashbench computed in PyTorch's place, and what it left to PyTorch."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from typing import Literal, NamedTuple

import torch

from flashbench.integrations.stack import level_outside

# Between a line that calls attention and what counts it.
_BETWEEN = ("flashbench.integrations.torch.", "torch.overrides")

_lock = threading.Lock()
_counts: Counter[str] = Counter()
_fallbacks: Counter[str] = Counter()


class Stats(NamedTuple):
    """Since the process began, or since `reset_stats`.

    forwards, backwards: calls of our operators, compiled or not. fallbacks: calls that went to PyTorch's own
    kernel, by the reason; under `torch.compile` counted once, when the call was traced.
    """

    forwards: int
    backwards: int
    fallbacks: dict[str, int]


def stats() -> Stats:
    """How many calls ran here, and how many went to PyTorch and why."""
    with _lock:
        return Stats(_counts["forward"], _counts["backward"], dict(_fallbacks))


def reset_stats() -> None:
    """Count from nought; each reason will be warned of once more."""
    with _lock:
        _counts.clear()
        _fallbacks.clear()


def counted(direction: Literal["forward", "backward"]) -> None:
    with _lock:
        _counts[direction] += 1


@torch.compiler.assume_constant_result  # `torch.compile` calls it while it traces, and compiles nothing of it
def fell_back(reason: str) -> None:
    """Count, and warn of each reason once."""
    with _lock:
        _fallbacks[reason] += 1
        first = _fallbacks[reason] == 1
    if first:
        warnings.warn(f"flashbench left attention to PyTorch: {reason}", stacklevel=level_outside(*_BETWEEN))
