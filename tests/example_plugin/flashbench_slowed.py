"""An engine for flashbench in its own package: flash attention, slowed by a known share of its time.

It is a template. It has every member of `flashbench.engines.Engine`, whose docstrings say what each must do,
and needs no base class. It is also useful: it gives a comparison a difference of known size to find.
$FLASHBENCH_SLOWED_BY is the share by which each call takes longer; the default is 0.10.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter_ns
from typing import TypeVar

from flashbench.engines import Array, AttentionGradients, Forward, Layout, Ran, Settings, get_engine
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature

Result = TypeVar("Result")


class SlowedEngine:
    """Another engine's results, late."""

    name = "slowed"
    summary = "flash, and then a busy wait for a share of the time it took ($FLASHBENCH_SLOWED_BY)"
    # The memory order of q, k and v that it reads without a copy: (batch, heads, seqlen, head_dim).
    layout: Layout = "bhsd"

    def __init__(self) -> None:
        """Called without arguments. `flashbench engines` prints what it raises, in one line."""
        self._share = float(os.environ.get("FLASHBENCH_SLOWED_BY", "0.10"))
        self._flash = get_engine("flash")
        # Its optional features. A problem with others is refused before it gets here.
        self.features: frozenset[Feature] = self._flash.features

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """None, as it runs whatever flash runs. Else return one line that names the rule and the value."""
        return self._flash.unsupported(problem, direction)

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o and lse. An engine without lse returns Forward(o, None)."""
        return self._late(lambda: self._flash.forward(problem, settings, q, k, v, extras=extras, keep=keep))

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        """dq, dk and dv. An engine without a backward says so in `unsupported`; then this is never called."""
        return self._late(
            lambda: self._flash.backward(
                problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=mask_gradient
            )
        )

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """Flash's block sizes. Return None for an engine without a choice of tiles."""
        return self._flash.blocks(problem, direction, settings)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Flash's workspace. Return None if it is not known before the call."""
        return self._flash.workspace_bytes(problem, direction, settings)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None, which means that the engine has only one kernel."""
        return Ran("flash", f"slowed by {self._share:.0%}")

    def _late(self, call: Callable[[], Result]) -> Result:
        start = perf_counter_ns()
        result = call()
        end = perf_counter_ns()
        until = end + self._share * (end - start)
        while perf_counter_ns() < until:
            pass  # busy on the core, as slower arithmetic would be
        return result
