"""How long the rest of a run will take, from how long its steps have taken so far."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Step(NamedTuple):
    """One step of a run."""

    kind: str
    name: Hashable  # tells the same step when it comes again
    flops: int


class Forecast:
    """Learns from the steps that were made."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Hashable], float] = {}
        self._known: dict[str, list[tuple[int, float]]] = {}  # kind -> (operations, seconds)

    def learn(self, step: Step, seconds: float) -> None:
        """A step took that long."""
        self._last[step.kind, step.name] = seconds
        self._known.setdefault(step.kind, []).append((step.flops, seconds))

    def seconds(self, step: Step) -> float | None:
        """What a step will take: as last time, or what its kind takes at least and a share that grows with
        its operations. A kind not met yet is taken for like the others; None: no idea at all.
        """
        if (step.kind, step.name) in self._last:
            return self._last[step.kind, step.name]
        known = self._known.get(step.kind) or [pair for pairs in self._known.values() for pair in pairs]
        if not known:
            return None
        least = min(seconds for _, seconds in known)
        flops, seconds = max(known)
        return least + (seconds - least) * step.flops / flops

    def total(self, steps: Iterable[Step]) -> float | None:
        """The sum of `seconds`; None when one of them is unknown."""
        parts = [self.seconds(step) for step in steps]
        return None if None in parts else sum(part for part in parts if part is not None)
