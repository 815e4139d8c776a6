"""An engine for flashbench in a package of its own: flash attention, slowed by a known share of its time.

A template: it has every member of `flashbench.engines.Engine`, whose docstrings say what each must do, and
needs no base class. It is of use as well: a change of a known size is what a comparison can be tried on.
$FLASHBENCH_SLOWED_BY is the share by which each call takes longer, 0.10 unless it is set.
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
    # q, k and v in (batch, heads, seqlen, head_dim) order are what it reads without copying them.
    layout: Layout = "bhsd"

    def __init__(self) -> None:
        """Called without arguments. What it raises is told by `flashbench engines`, in one line."""
        self._share = float(os.environ.get("FLASHBENCH_SLOWED_BY", "0.10"))
        self._flash = get_engine("flash")
        # The optional features that it has: a problem with others is refused before it gets here.
        self.features: frozenset[Feature] = self._flash.features

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """None: it runs what flash runs. Else one line that names the rule and the value."""
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
        """o and lse; whoever has no lse returns Forward(o, None)."""
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
        """dq, dk and dv; whoever has no backward says so in `unsupported`, and this is never called."""
        return self._late(
            lambda: self._flash.backward(
                problem, settings, do, q, k, v, forward, extras=extras, mask_gradient=mask_gradient
            )
        )

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """Flash's; None for an engine whose tiles cannot be chosen."""
        return self._flash.blocks(problem, direction, settings)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Flash's; None where it is not known before the call."""
        return self._flash.workspace_bytes(problem, direction, settings)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """Its only one; None says just that."""
        return Ran("flash", f"slowed by {self._share:.0%}")

    def _late(self, call: Callable[[], Result]) -> Result:
        start = perf_counter_ns()
        result = call()
        end = perf_counter_ns()
        until = end + self._share * (end - start)
        while perf_counter_ns() < until:
            pass  # on the core, as slower arithmetic would be
        return result
