"""One case: a problem, settings, and what becomes of its standard normal inputs and made extras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from flashbench.engines import Settings
from flashbench.extras import Extras, make_extras
from flashbench.problem import AttentionProblem, Inputs
from flashbench.tolerances import STANDARD_NORMAL, Sizes

Change = Callable[[Inputs], Inputs]
ChangeExtras = Callable[[Extras], Extras]
_SEED = 1


class Case(NamedTuple):
    """One thing that must come out right."""

    name: str
    group: str
    problem: AttentionProblem
    settings: Settings = Settings()
    sizes: Sizes = STANDARD_NORMAL  # multiplies the inputs, and the tolerance with them
    change: Change | None = None
    infinite: bool = False  # inputs hold infinities: what is NaN in one order of adding is not in another
    change_extras: ChangeExtras | None = None
    backward: bool = True  # whether gradients are asked for
    forward: bool = True  # whether outputs are; gradients need them in any case
    name_in_any_dtype: str = ""  # the name without its dtype; a suite adds the dtype to its names

    def make_inputs(self) -> Inputs:
        """The same inputs each time."""
        inputs = self.problem.make_inputs(seed=_SEED)
        scaled = (
            x if size == 1.0 else x * x.dtype.type(size)
            for x, size in zip(inputs, self.sizes[:4], strict=True)
        )
        return Inputs(*scaled) if self.change is None else self.change(Inputs(*scaled))

    def make_extras(self) -> Extras:
        """The same mask, slopes, sinks and block table each time, of those that the problem has."""
        extras = make_extras(self.problem, seed=_SEED)
        return extras if self.change_extras is None else self.change_extras(extras)

    @property
    def question(self) -> Case:
        """What the case asks, whatever it is called and run with: equal where the answer is the same."""
        return self._replace(name="", name_in_any_dtype="", group="", settings=Settings())

    def in_blocks(self, block_q: int, block_k: int) -> Case:
        """The same in tiles of this size: small ones are what windows and masks hide whole."""
        name = f"{self.name}-blocks-{block_q}x{block_k}"
        return self._replace(name=name, settings=self.settings._replace(block_q=block_q, block_k=block_k))


def each_masking(name: str, problem: AttentionProblem) -> Iterator[tuple[str, AttentionProblem]]:
    """The problem in full and causal, with both alignments where they differ, each with its name."""
    yield name, problem
    if problem.seqlen_q == problem.seqlen_k:
        yield f"{name}-causal", msgspec.structs.replace(problem, causal=True)
        return
    yield f"{name}-bottom-right", msgspec.structs.replace(problem, causal=True)
    yield f"{name}-top-left", msgspec.structs.replace(problem, causal=True, causal_alignment="top-left")
