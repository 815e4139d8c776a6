"""A fake workload in place of a model, for tests of runs. Its context length decides what happens to it."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from flashbench.errors import UnsupportedError

FACTORY = f"{__name__}:build"
UNSUPPORTED, RAISES, KILLED, OTHER_LOSS = 32, 48, 64, 80


def build(point: list[Any], study: dict[str, Any], csv: list[int] | None) -> FakeStep:
    """The fake step of that model, length and attention."""
    if point[1] == UNSUPPORTED:
        raise UnsupportedError("there are 30 values, a window needs 32")
    return FakeStep(point[1], point[2])


class FakeStep:
    """Failures happen only to flash, other attentions succeed. The peak is 1 KiB * context squared."""

    def __init__(self, context: int, attention: str) -> None:
        self._context, self._attention = context, attention

    def call(self) -> None:
        if self._attention == "flash" and self._context == RAISES:
            raise ValueError("a model that raises")
        if self._attention == "flash" and self._context == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        np.ones(self._context**2 * 128)

    def forget(self) -> None:
        """Nothing is kept."""

    def describe(self) -> dict[str, Any]:
        return {"output_bytes": 0, "parameters": 7, "series": 1, "data": "made up"}

    def check(self) -> dict[str, Any]:
        other = self._attention == "flash" and self._context == OTHER_LOSS
        return {
            "losses": [1.0, 0.5 if other else 0.9],
            "forward_ns": 4.0,
            "backward_ns": 5.0,
            "optimizer_ns": 1.0,
            "attention_forward_ns": 1.0,
            "attention_backward_ns": 2.0,
            "attention_share": 0.3,
            "attention_calls": 3,
            "attention_shape": [1, 1, 1, 1, 1, 1],
        }
