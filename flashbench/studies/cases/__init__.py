"""What `verify` tries on an engine: named cases, each in every dtype.

Names are stable, for scripts and bug reports refer to them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import get_args

from flashbench.errors import ConfigError
from flashbench.problem import Dtype
from flashbench.studies.cases import shapes, values
from flashbench.studies.cases.case import Case

__all__ = ["Case", "all_cases", "choose_cases"]

_GROUPS = (
    shapes.square,
    shapes.unequal_lengths,
    shapes.no_visible_key,
    shapes.grouped_heads,
    shapes.head_dims,
    shapes.blocks,
    shapes.threads,
    shapes.layouts,
    values.scales,
    values.magnitudes,
    values.steep_logits,
    values.not_finite,
)


def all_cases() -> list[Case]:
    """Every case, group by group; a name ends in its dtype."""
    return [
        case._replace(name=f"{case.name}-{dtype}")
        for group in _GROUPS
        for dtype in get_args(Dtype)
        for case in group(dtype)
    ]


def choose_cases(words: Sequence[str]) -> list[Case]:
    """The cases that the words name: each word a name, a name without its dtype, or else a prefix.

    No word names all. Raises ConfigError for a word that names none.

    >>> [case.name for case in choose_cases(["square-1"])]
    ['square-1-float32', 'square-1-float64']
    >>> len(choose_cases(["square-1-", "square-1"]))
    4
    """
    cases = all_cases()
    chosen: set[str] = set()
    for word in words:
        exact = {case.name for case in cases if word in (case.name, _without_dtype(case))}
        named = exact or {case.name for case in cases if word and case.name.startswith(word)}
        if not named:
            near = difflib.get_close_matches(word, [name for case in cases for name in _names(case)], n=1)
            raise ConfigError(
                f"no case is named {word!r} or begins so",
                hint=f"did you mean {near[0]!r}?" if near else "flashbench verify --list names them all",
            )
        chosen |= named
    return [case for case in cases if case.name in chosen] if words else cases


def _names(case: Case) -> tuple[str, str]:
    return case.name, _without_dtype(case)


def _without_dtype(case: Case) -> str:
    return case.name.removesuffix(f"-{case.problem.dtype}")
