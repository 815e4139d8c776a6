"""A forecast of how long the rest of a run takes, from its steps so far."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Step(NamedTuple):
    """One step of a run."""

    kind: str
    name: Hashable  # the same for the same step of another round
    flops: int


class Forecast:
    """Learns from finished steps."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Hashable], float] = {}
        self._known: dict[str, list[tuple[int, float]]] = {}  # kind -> (operations, seconds)

    def learn(self, step: Step, seconds: float) -> None:
        """Record how long a step took."""
        self._last[step.kind, step.name] = seconds
        self._known.setdefault(step.kind, []).append((step.flops, seconds))

    def seconds(self, step: Step) -> float | None:
        """The duration of the same step last time. For a new step: the least of its kind, plus a share that
        grows with its operations; a new kind is taken to be like the others. None: nothing is known.
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
        """The sum of `seconds`; None if one of them is unknown."""
        parts = [self.seconds(step) for step in steps]
        return None if None in parts else sum(part for part in parts if part is not None)
