"""The suites of named cases that `verify` runs on an engine, each case in every dtype.

Names are stable, because scripts and bug reports refer to them.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

from flashbench.dtypes import NARROWEST_FIRST, Dtype
from flashbench.engines.flash.block_sizes import Pass
from flashbench.errors import ConfigError
from flashbench.studies.cases import (
    containment,
    decode,
    features,
    grids,
    masks,
    pairs,
    shapes,
    unweighted,
    values,
)
from flashbench.studies.cases.case import Case

__all__ = ["DEFAULT_SUITE", "SUITES", "Case", "all_cases", "choose_cases", "narrow_cases", "sample_cases"]

DEFAULT_SUITE = "default"
Group = Callable[[Dtype], Iterator[Case]]
SUITES: Mapping[str, tuple[Group, ...]] = {
    DEFAULT_SUITE: (
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
        values.beyond_the_range,
        values.not_finite,
        features.windows,
        masks.bool_masks,
        masks.float_masks,
        masks.block_masks,
        *features.OTHERS,
        pairs.pairs,
        pairs.everything,
        containment.hidden,
        containment.visible,
        containment.in_extras,
        unweighted.minus_infinite_logits,
        unweighted.dropped_nan,
        unweighted.decoding,
        decode.page_tails,
        decode.decoding,
    ),
    "flash-attention": (grids.flash_attention, grids.flash_attention_long),
    "torch": (grids.torch_cpu,),
}


def all_cases(suite: str = DEFAULT_SUITE) -> list[Case]:
    """Every case of a suite, group by group. A name ends in its dtype.

    Raises ConfigError for an unknown suite.
    """
    if suite not in SUITES:
        raise ConfigError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
    return [
        case._replace(name=f"{case.name}-{dtype}", name_in_any_dtype=case.name)
        for group in SUITES[suite]
        for dtype in NARROWEST_FIRST
        for case in group(dtype)
    ]


def sample_cases(cases: Sequence[Case], count: int, seed: int = 0) -> list[Case]:
    """A random sample of `count` cases, in their order. One seed gives the same sample.

    A case's random number depends only on its name and the seed. So new cases in a suite change little of a
    sample.

    >>> len(sample_cases(all_cases(), 3))
    3
    """
    lots = {case.name: hashlib.sha256(f"{seed} {case.name}".encode()).digest() for case in cases}
    drawn = set(sorted(lots, key=lots.__getitem__)[:count])
    return [case for case in cases if case.name in drawn]


def narrow_cases(
    cases: Sequence[Case],
    *,
    dtypes: Sequence[Dtype] = NARROWEST_FIRST,
    causal: Sequence[bool] = (False, True),
    directions: Sequence[Pass] = get_args(Pass),
    threads: int | None = None,
) -> list[Case]:
    """The cases with these dtypes and maskings, narrowed to these directions.

    threads: for the cases that do not set their own. Raises ConfigError if no case is left.

    >>> [case.name for case in narrow_cases(choose_cases(["square-2"]), dtypes=["float32"])]
    ['square-2-float32']
    >>> {case.backward for case in narrow_cases(all_cases(), directions=["fwd"])}
    {False}
    """
    found = [
        case._replace(
            forward="fwd" in directions,
            backward=case.backward and "bwd" in directions,
            settings=case.settings._replace(num_threads=case.settings.num_threads or threads),
        )
        for case in cases
        if case.problem.dtype in dtypes
        and case.problem.causal in causal
        and ("fwd" in directions or case.backward)
    ]
    if not found:
        raise ConfigError(
            "no case is left of what --case, --dtype, --causal and --direction name together",
            hint="flashbench verify --list names them all",
        )
    return found


def choose_cases(words: Sequence[str], suite: str = DEFAULT_SUITE) -> list[Case]:
    """The cases of a suite that the words name: all cases if there are no words.

    A word is a name, a name without its dtype, or else a prefix. Raises ConfigError for a word without a
    case.

    >>> [case.name for case in choose_cases(["square-1"])]
    ['square-1-float16', 'square-1-bfloat16', 'square-1-float32', 'square-1-float64']
    >>> len(choose_cases(["square-1-", "square-1"]))
    8
    """
    cases = all_cases(suite)
    chosen: set[str] = set()
    for word in words:
        exact = {case.name for case in cases if word in _names(case)}
        named = exact or {case.name for case in cases if word and case.name.startswith(word)}
        if not named:
            close = difflib.get_close_matches(word, [name for case in cases for name in _names(case)], n=1)
            raise ConfigError(
                f"no case is named {word!r} or begins so",
                hint=f"did you mean {close[0]!r}?" if close else "flashbench verify --list names them all",
            )
        chosen |= named
    return [case for case in cases if case.name in chosen] if words else cases


def _names(case: Case) -> tuple[str, str]:
    return case.name, case.name_in_any_dtype
