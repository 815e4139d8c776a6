"""One case: a problem, settings, and changes to its standard normal inputs and made extras."""

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
    """One problem whose results must agree with the oracle."""

    name: str
    group: str
    problem: AttentionProblem
    settings: Settings = Settings()
    sizes: Sizes = STANDARD_NORMAL  # factors of the inputs, which also scale the tolerance
    change: Change | None = None
    infinite: bool = False  # inputs hold infinities: one order of adding gives NaN, another does not
    change_extras: ChangeExtras | None = None
    backward: bool = True  # check gradients
    forward: bool = True  # check outputs; gradients need a forward in any case
    name_in_any_dtype: str = ""  # the name without its dtype; a suite adds the dtype to its names

    def make_inputs(self) -> Inputs:
        """The case's inputs; every call gives the same."""
        inputs = self.problem.make_inputs(seed=_SEED)
        scaled = (
            x if size == 1.0 else x * x.dtype.type(size)
            for x, size in zip(inputs, self.sizes[:4], strict=True)
        )
        return Inputs(*scaled) if self.change is None else self.change(Inputs(*scaled))

    def make_extras(self) -> Extras:
        """The problem's mask, slopes, sinks and block table; every call gives the same."""
        extras = make_extras(self.problem, seed=_SEED)
        return extras if self.change_extras is None else self.change_extras(extras)

    @property
    def question(self) -> Case:
        """The case without its names, group and settings. Equal questions have equal answers."""
        return self._replace(name="", name_in_any_dtype="", group="", settings=Settings())

    def in_blocks(self, block_q: int, block_k: int) -> Case:
        """The same case with tiles of this size. Windows and masks hide small tiles completely."""
        name = f"{self.name}-blocks-{block_q}x{block_k}"
        return self._replace(name=name, settings=self.settings._replace(block_q=block_q, block_k=block_k))


def each_masking(name: str, problem: AttentionProblem) -> Iterator[tuple[str, AttentionProblem]]:
    """(name, problem) in full and causal, with both alignments if they differ."""
    yield name, problem
    if problem.seqlen_q == problem.seqlen_k:
        yield f"{name}-causal", msgspec.structs.replace(problem, causal=True)
        return
    yield f"{name}-bottom-right", msgspec.structs.replace(problem, causal=True)
    yield f"{name}-top-left", msgspec.structs.replace(problem, causal=True, causal_alignment="top-left")
