"""One case: a problem, settings, and changes to its standard normal inputs and made extras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from flashbench.dtypes import DTYPES, Dtype
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
    change: Change | None = None  # of the numbers
    layout: Change | None = None  # of the arrays that store them
    infinite: bool = False  # inputs hold infinities: one order of adding gives NaN, another does not
    change_extras: ChangeExtras | None = None
    backward: bool = True  # check gradients
    forward: bool = True  # check outputs; gradients need a forward in any case
    name_in_any_dtype: str = ""  # the name without its dtype; a suite adds the dtype to its names

    def make_inputs(self) -> Inputs:
        """The case's inputs; every call gives the same."""
        entry = DTYPES[self.problem.dtype]
        numbers = map(entry.view, self.problem.make_inputs(seed=_SEED))
        scaled = Inputs(
            *(
                x if size == 1.0 else x * x.dtype.type(size)
                for x, size in zip(numbers, self.sizes[:4], strict=True)
            )
        )
        stored = Inputs(*map(entry.make, scaled if self.change is None else self.change(scaled)))
        return stored if self.layout is None else self.layout(stored)

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


def uneven_problem(
    dtype: Dtype, seqlen_q: int = 67, seqlen_k: int = 101, *, batch: int = 2, **fields: Any
) -> AttentionProblem:
    """Lengths that no block divides, query heads that share key heads, and another head_dim for v."""
    return AttentionProblem.of(
        seqlen_q,
        seqlen_k=seqlen_k,
        batch=batch,
        num_heads=4,
        num_kv_heads=2,
        head_dim=20,
        head_dim_v=12,
        dtype=dtype,
        **fields,
    )


def each_masking(name: str, problem: AttentionProblem) -> Iterator[tuple[str, AttentionProblem]]:
    """(name, problem) in full and causal, with both alignments if they differ."""
    yield name, problem
    if problem.seqlen_q == problem.seqlen_k:
        yield f"{name}-causal", msgspec.structs.replace(problem, causal=True)
        return
    yield f"{name}-bottom-right", msgspec.structs.replace(problem, causal=True)
    yield f"{name}-top-left", msgspec.structs.replace(problem, causal=True, causal_alignment="top-left")
