"""Cases of NaN and infinity in features: hidden ones reach nothing, visible ones only rows that see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.dtypes import Dtype
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem, Inputs, MaskKind
from flashbench.studies.cases.case import Case, Change, ChangeExtras, uneven_problem
from flashbench.studies.cases.masks import in_mask
from flashbench.studies.cases.values import put

FEATURE_CONTAINMENT = "NaN with features"
_VALUES: Mapping[str, float] = {"nan": np.nan, "inf": np.inf}
_KINDS: tuple[MaskKind, ...] = ("bool", "float", "block")
_KEYS, _ROWS = slice(20, 40), slice(10, 29)  # keys that masks hide, rows that see no key
# The changed element of a row. The last queries are negative here, so an infinite key gives them a logit of
# -inf.
_ELEMENT = 3
_KEYS_FROM_ALL = (..., slice(None), _KEYS)
_KEYS_FROM_SOME = (..., slice(None, None, 3), _KEYS)
_ALL_FROM_ROWS = (..., _ROWS, slice(None))


def hidden(dtype: Dtype) -> Iterator[Case]:
    """NaN or infinity in keys and values that no query sees, and in queries that see no key."""
    for word, value in _VALUES.items():
        for kind in _KINDS:
            for what, where, rows, names in (
                ("keys", _KEYS_FROM_ALL, _KEYS, ("k", "v")),
                ("queries", _ALL_FROM_ROWS, _ROWS, ("q", "do")),
            ):
                yield from _in_large_and_small_blocks(
                    Case(
                        f"{word}-in-hidden-{what}-mask-{kind}",
                        FEATURE_CONTAINMENT,
                        _masked(kind, dtype),
                        change=put(value, (..., rows, slice(None)), *names),
                        change_extras=_hide(kind, where),
                    )
                )
        for what, problem, rows, names in (
            ("keys", _problem(dtype, seqlen_q=20, window=(5, 7)), slice(27, None), ("k", "v")),
            ("queries", _problem(dtype, seqlen_k=10, window=(5, 7)), slice(15, None), ("q", "do")),
        ):
            yield from _in_large_and_small_blocks(
                Case(
                    f"{word}-in-hidden-{what}-window",
                    FEATURE_CONTAINMENT,
                    msgspec.structs.replace(problem, causal_alignment="top-left"),
                    change=put(value, (..., rows, slice(None)), *names),
                )
            )
        padded = _problem(dtype, key_lengths=(31, 0))
        yield from _in_large_and_small_blocks(
            Case(f"{word}-in-padding", FEATURE_CONTAINMENT, padded, change=_fill_padding(padded, value))
        )


def visible(dtype: Dtype) -> Iterator[Case]:
    """NaN or infinity in one key, value, query or gradient, which some rows see and others do not."""
    problems = {
        "window": _problem(dtype, window=(5, 7)),
        "window-causal": _problem(dtype, window=(5, None), causal=True),
        "alibi": _problem(dtype, alibi=True, causal=True),
        "softcap": _problem(dtype, softcap=2.0, causal=True),
        "sinks": _problem(dtype, sinks=True, causal=True),
        "dropout": _problem(dtype, dropout=0.3, causal=True),
        "key-lengths": _problem(dtype, key_lengths=(31, 25)),
        "packed": _problem(dtype, query_lengths=(30, 20), key_lengths=(31, 40)),
        **{f"mask-{kind}": _masked(kind, dtype) for kind in _KINDS},
    }
    for word, value in _VALUES.items():
        for feature, problem in problems.items():
            for name, row in (("k", 24), ("v", 24), ("q", 18), ("do", 18)):
                yield from _in_large_and_small_blocks(
                    Case(
                        f"{word}-in-{name}-{feature}",
                        FEATURE_CONTAINMENT,
                        problem,
                        change=put(value, (0, 1, row, _ELEMENT), name),
                        infinite=word == "inf",
                        change_extras=_hide(problem.mask, _KEYS_FROM_SOME) if problem.mask else None,
                    )
                )


def in_extras(dtype: Dtype) -> Iterator[Case]:
    """NaN or infinity in the additive mask, at visible and hidden pairs; NaN in a sink and in a slope."""
    for word, value in _VALUES.items():
        problem = _masked("float", dtype)
        case = Case(
            f"{word}-in-mask",
            FEATURE_CONTAINMENT,
            problem,
            infinite=word == "inf",
            change_extras=in_mask((..., 1, 18, 24), value),
        )
        yield from _in_large_and_small_blocks(case)
        behind = case._replace(
            name=f"{word}-in-hidden-mask",
            problem=msgspec.structs.replace(problem, causal=True),
            infinite=False,
            change_extras=in_mask((..., 0, slice(30, None)), value),
        )
        yield from _in_large_and_small_blocks(behind)
    yield Case(
        "nan-in-sinks",
        FEATURE_CONTAINMENT,
        _problem(dtype, sinks=True),
        change_extras=lambda extras: extras._replace(sinks=_with_nan(extras.sinks)),
    )
    yield Case(
        "nan-in-slopes",
        FEATURE_CONTAINMENT,
        _problem(dtype, alibi=True),
        change_extras=lambda extras: extras._replace(alibi_slopes=_with_nan(extras.alibi_slopes)),
    )


def _in_large_and_small_blocks(case: Case) -> Iterator[Case]:
    yield case
    yield case.in_blocks(16, 16)


def _problem(dtype: Dtype, *, seqlen_q: int = 37, seqlen_k: int = 53, **fields: Any) -> AttentionProblem:
    return uneven_problem(dtype, seqlen_q, seqlen_k, **fields)


def _masked(kind: MaskKind, dtype: Dtype) -> AttentionProblem:
    axes = "qk" if kind == "block" else "hqk"
    return _problem(dtype, mask=kind, mask_axes=axes, mask_block_q=16, mask_block_k=16)


def _hide(kind: MaskKind, where: Any) -> ChangeExtras:
    """Hide the pairs at `where`. Elsewhere a bool or float mask stays, and a block mask shows everything."""
    if kind != "block":
        return in_mask(where, False if kind == "bool" else -np.inf)

    def change(extras: Extras) -> Extras:
        assert isinstance(extras.mask, BlockMask)
        mask = np.ones(extras.mask.shape, np.bool_)
        mask[where] = False
        return extras._replace(mask=BlockMask.from_mask(mask, (extras.mask.block_q, extras.mask.block_k)))

    return change


def _fill_padding(problem: AttentionProblem, value: float) -> Change:
    def change(inputs: Inputs) -> Inputs:
        for sequence in problem.sequences():
            for x in (inputs.k, inputs.v):
                x[sequence.batch_index, :, sequence.seqlen_k :] = value
        return inputs

    return change


def _with_nan(x: Any) -> Any:
    """x with NaN in the second head."""
    changed = x.copy()
    changed[..., 1] = np.nan
    return changed
