"""Cases of decoding: a few new queries, and the keys of all tokens so far, perhaps in pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flashbench.dtypes import Dtype
from flashbench.problem import AttentionProblem, Inputs
from flashbench.studies.cases.case import Case, Change
from flashbench.studies.cases.containment import FEATURE_CONTAINMENT

QUERIES = (1, 2, 7, 16)
_KEYS = 1100
_KEY_LENGTHS = (_KEYS, 333)
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "full": {"causal": False},
    "causal": {},
    "mqa": {"num_kv_heads": 1},
    "window": {"window": (100, None)},
    "key-lengths": {"key_lengths": _KEY_LENGTHS},
    "alibi-softcap-sinks": {"alibi": True, "softcap": 5.0, "sinks": True, "key_lengths": _KEY_LENGTHS},
    "mask": {"mask": "float", "mask_axes": "bk"},
    "paged-16": {"page_size": 16},
    "paged-1": {"page_size": 1, "key_lengths": (70, 9)},
    "paged-256-key-lengths": {"page_size": 256, "key_lengths": _KEY_LENGTHS},
    "paged-64-window": {"page_size": 64, "window": (100, None), "key_lengths": _KEY_LENGTHS},
    "paged-16-mask": {"page_size": 16, "mask": "bool", "mask_axes": "bk"},
    "paged-64-everything": {
        "page_size": 64,
        "key_lengths": (_KEYS, 0),
        "alibi": True,
        "softcap": 5.0,
        "sinks": True,
    },
}


def decoding(dtype: Dtype) -> Iterator[Case]:
    """1 to 16 queries per sequence, at the end of its keys. Pages are in random order, forward only."""
    for count in QUERIES:
        for way, features in _WAYS.items():
            yield _decode(f"decode-{count}-{way}", count, dtype, features)
    packed = {"batch": 4, "query_lengths": (1, 0, 3, 16), "key_lengths": (_KEYS, 50, 3, 16)}
    yield _decode("decode-packed", QUERIES[-1], dtype, packed)
    yield _decode("decode-packed-paged-16", QUERIES[-1], dtype, packed | {"page_size": 16})


def page_tails(dtype: Dtype) -> Iterator[Case]:
    """NaN or infinity after a sequence's keys in its last page, which must reach no result."""
    for word, value in (("nan", np.nan), ("inf", np.inf)):
        case = _decode(f"{word}-in-page-tails", 2, dtype, {"page_size": 64, "key_lengths": _KEY_LENGTHS})
        yield case._replace(group=FEATURE_CONTAINMENT, change=_fill_tails(case, value))


def _decode(name: str, count: int, dtype: Dtype, features: Mapping[str, Any]) -> Case:
    shape = {"batch": 2, "num_heads": 8, "num_kv_heads": 2, "head_dim": 32, "causal": True}
    problem = AttentionProblem.of(count, seqlen_k=_KEYS, dtype=dtype, **(shape | dict(features)))
    return Case(name, "decoding", problem, backward=problem.page_size is None)


def _fill_tails(case: Case, value: float) -> Change:
    def change(inputs: Inputs) -> Inputs:
        table, size = case.make_extras().block_table, case.problem.page_size
        assert table is not None
        assert size is not None
        for pages, sequence in zip(table, case.problem.sequences(), strict=True):
            last, used = divmod(sequence.seqlen_k, size)
            for x in (inputs.k, inputs.v):
                x[pages[last], :, used:] = value
        return inputs

    return change
