"""The answers that most engines give."""

from __future__ import annotations

from flashbench.dtypes import ACCUMULATORS, Dtype
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Layout, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction, Feature


class EngineBase:
    """Defaults of the Protocol `Engine`: no optional feature, no 16-bit dtype, no backward, one kernel, no
    blocks.

    Our engines inherit these and override what differs. A plug-in may do the same, and need not.
    """

    name: str
    layout: Layout = "bhsd"
    features: frozenset[Feature] = frozenset()
    dtypes: tuple[Dtype, ...] = ACCUMULATORS

    def unsupported(self, problem: AttentionProblem, direction: Direction) -> str | None:
        """None: every problem runs whose features the engine has."""
        return None

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
        """Nothing calls this: an engine without a backward refuses the direction in `unsupported`."""
        raise NotImplementedError(self.unsupported(problem, "bwd"))

    def blocks(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> tuple[int, int] | None:
        """None: the caller cannot choose blocks."""
        return None

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """None: unknown before the call."""
        return None

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """None: there is one kernel."""
        return None
