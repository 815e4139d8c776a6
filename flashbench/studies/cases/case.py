"""One case: a problem, settings, and what becomes of its standard normal inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from flashbench.engines import Settings
from flashbench.problem import AttentionProblem, Inputs
from flashbench.tolerances import STANDARD_NORMAL, Sizes

Change = Callable[[Inputs], Inputs]


class Case(NamedTuple):
    """One thing that must come out right."""

    name: str
    group: str
    problem: AttentionProblem
    settings: Settings = Settings()
    sizes: Sizes = STANDARD_NORMAL  # multiplies the inputs, and the tolerance with them
    change: Change | None = None
    infinite: bool = False  # inputs hold infinities: what is NaN in one order of adding is not in another

    def make_inputs(self) -> Inputs:
        """The same inputs each time."""
        inputs = self.problem.make_inputs(seed=1)
        scaled = (
            x if size == 1.0 else x * x.dtype.type(size)
            for x, size in zip(inputs, self.sizes[:4], strict=True)
        )
        return Inputs(*scaled) if self.change is None else self.change(Inputs(*scaled))


def each_masking(name: str, problem: AttentionProblem) -> Iterator[tuple[str, AttentionProblem]]:
    """The problem in full and causal, with both alignments where they differ, each with its name."""
    yield name, problem
    if problem.seqlen_q == problem.seqlen_k:
        yield f"{name}-causal", msgspec.structs.replace(problem, causal=True)
        return
    yield f"{name}-bottom-right", msgspec.structs.replace(problem, causal=True)
    yield f"{name}-top-left", msgspec.structs.replace(problem, causal=True, causal_alignment="top-left")
