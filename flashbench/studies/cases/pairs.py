"""Cases of every pair of features, and of all features at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from flashbench.dtypes import Dtype
from flashbench.studies.cases.case import Case, uneven_problem
from flashbench.studies.cases.masks import sparse_blocks

PAIRS = "pairs of features"
_ALL = "all features"
_SEQLEN_Q, _SEQLEN_K = 67, 101
_KEY_LENGTHS = (101, 0, 45)
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "causal": {"causal": True},
    "window": {"window": (20, 9)},
    "bool": {"mask": "bool", "mask_axes": "hqk"},
    "float": {"mask": "float", "mask_axes": "bqk"},
    "block": {"mask": "block", "mask_axes": "hqk", "mask_block_q": 16, "mask_block_k": 24},
    "alibi": {"alibi": True},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "key-lengths": {"key_lengths": _KEY_LENGTHS},
    "packed": {"key_lengths": _KEY_LENGTHS, "query_lengths": (40, 3, _SEQLEN_Q)},
    "dropout": {"dropout": 0.2, "dropout_seed": 2**40 + 7},
}
# A problem can have at most one feature of each set.
ALTERNATIVES = ({"bool", "float", "block"}, {"key-lengths", "packed"})


def pairs(dtype: Dtype) -> Iterator[Case]:
    """Every pair of features that can be combined, with shared key heads, and head_dim_v unlike head_dim."""
    for two in itertools.combinations(FEATURES, 2):
        if all(len(one_of & set(two)) < 2 for one_of in ALTERNATIVES):
            yield from _together(f"pair-{'-'.join(two)}", PAIRS, two, dtype)


def everything(dtype: Dtype) -> Iterator[Case]:
    """As many features at once as can be combined, full and causal."""
    masks, kinds = (sorted(one_of) for one_of in ALTERNATIVES)
    others = [name for name in FEATURES if not any(name in one_of for one_of in ALTERNATIVES)]
    for mask, lengths in itertools.product(masks, kinds):
        chosen = (*others, mask, lengths)
        yield from _together(f"all-{mask}-{lengths}-causal", _ALL, chosen, dtype)
        yield from _together(f"all-{mask}-{lengths}", _ALL, chosen[1:], dtype)


def _together(name: str, group: str, chosen: tuple[str, ...], dtype: Dtype) -> Iterator[Case]:
    fields = {field: value for feature in chosen for field, value in FEATURES[feature].items()}
    problem = uneven_problem(dtype, _SEQLEN_Q, _SEQLEN_K, batch=len(_KEY_LENGTHS), **fields)
    change = sparse_blocks(problem) if problem.mask == "block" else None
    case = Case(name, group, problem, change_extras=change)
    yield case
    yield case.in_blocks(16, 16)
