"""Cases of keys without weight: logits of -inf at visible keys, and dropped NaN.

A logit of -inf gives a weight of 0, whatever its cause. A row with only such logits is like a row that sees
no key, except that 0 times a NaN or infinite value is NaN. Dropout multiplies a weight by 0, so NaN stays
NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flashbench.dtypes import Dtype
from flashbench.problem import AttentionProblem, Inputs, MaskKind
from flashbench.studies.cases.case import Case, Change, uneven_problem
from flashbench.studies.cases.values import put

GROUP = "keys without weight"
_ELEMENT = 3  # the element of rows of q and k whose product is -inf
_ROWS, _KEYS = slice(10, 19), slice(20, 40)
_KINDS: tuple[MaskKind, ...] = ("bool", "float", "block")
_FEATURES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "window": {"window": (5, 3)},  # all keys within it may be without weight
    "alibi": {"alibi": True},
    "sinks": {"sinks": True},
    "dropout": {"dropout": 0.3},
    "key-lengths": {"key_lengths": (31, 25)},
    "packed": {"query_lengths": (30, 20), "key_lengths": (31, 40)},
    **{f"mask-{kind}": {"mask": kind, "mask_axes": "qk"} for kind in _KINDS},
}
_FEW: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "causal": {"causal": True},
    "sinks": {"sinks": True},
    "paged": {"page_size": 16},
}


def minus_infinite_logits(dtype: Dtype) -> Iterator[Case]:
    """Logits of -inf in all of some rows, and at some keys of all rows."""
    changes = {"rows": _without_weight("q", _ROWS), "keys": _without_weight("k", _KEYS)}
    for what, change in changes.items():
        for feature, fields in _FEATURES.items():
            for slug, causal in (("", False), ("-causal", True)):
                name = f"minus-inf-logits-of-{what}-{feature}{slug}"
                problem = _problem(dtype, causal=causal, **fields)
                yield from _each_way(Case(name, GROUP, problem, change=change, infinite=True))


def decoding(dtype: Dtype) -> Iterator[Case]:
    """Logits of -inf with a few queries, whose keys may lie in pages; also for whole parts of the keys."""
    changes = {
        "rows": _without_weight("q", slice(1, 2)),
        "keys": _without_weight("k", slice(None)),
        "some-keys": _without_weight("k", slice(0, 500)),
    }
    for what, change in changes.items():
        for way, fields in _FEW.items():
            problem = _problem(dtype, seqlen_q=3, seqlen_k=600, **fields)
            if problem.page_size is not None and what == "some-keys":
                continue  # the change would set rows of pages, which are not the keys 0 to 500
            yield Case(
                f"minus-inf-logits-of-{what}-decode-{way}",
                GROUP,
                problem,
                change=change,
                infinite=True,
                backward=problem.page_size is None,
            )


def dropped_nan(dtype: Dtype) -> Iterator[Case]:
    """NaN in a key that some queries drop, alone or among others, and in a query that drops some keys."""
    for slug, causal in (("", False), ("-causal", True)):
        problem = _problem(dtype, causal=causal, causal_alignment="top-left", dropout=0.6)
        for name, row in (("first-k", 0), ("k", 24), ("q", 18)):
            change = put(np.nan, (0, 1, row, _ELEMENT), name[-1])
            yield from _each_way(Case(f"dropped-nan-in-{name}{slug}", GROUP, problem, change=change))


def _each_way(case: Case) -> Iterator[Case]:
    yield case
    yield case.in_blocks(16, 16)
    scalar = case.settings._replace(use_simd=False)
    yield case._replace(name=f"{case.name}-scalar", settings=scalar)


def _problem(dtype: Dtype, *, seqlen_q: int = 37, seqlen_k: int = 53, **fields: Any) -> AttentionProblem:
    return uneven_problem(dtype, seqlen_q, seqlen_k, mask_block_q=16, mask_block_k=16, **fields)


def _without_weight(name: str, rows: slice) -> Change:
    """Make all logits -inf in these rows of q, or at these rows of k. name: "q" or "k"."""

    def change(inputs: Inputs) -> Inputs:
        for x in (inputs.q, inputs.k):
            x[..., _ELEMENT] = np.abs(x[..., _ELEMENT]) + x.dtype.type(0.125)
        getattr(inputs, name)[..., rows, _ELEMENT] = -np.inf
        return inputs

    return change
