"""Other problems that an engine may have answered: without a feature, or with one read in another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.errors import AttentionError
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem
from flashbench.studies.audit.findings import Explanation


class Reading(NamedTuple):
    """What an engine may have understood."""

    explanation: Explanation
    problem: AttentionProblem
    extras: Extras


# A feature, the fields that are left out without it, and how the finding names it.
_LEFT_OUT: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("softcap", {"softcap": None}, "softcap"),
    ("alibi", {"alibi": False}, "ALiBi's slopes"),
    ("mask", {"mask": None}, "the mask"),
    ("sinks", {"sinks": False}, "the sinks"),
    ("dropout", {"dropout": 0.0}, "dropout"),
    ("window", {"window_left": None, "window_right": None}, "the window"),
    ("key_lengths", {"key_lengths": None}, "the lengths of the keys"),
)
_ARRAYS = {"alibi": "alibi_slopes", "mask": "mask", "sinks": "sinks"}


def readings(problem: AttentionProblem, extras: Extras) -> Iterator[Reading]:
    """Each with one difference, the likeliest first."""
    for feature, fields, words in _LEFT_OUT:
        if feature in problem.features:
            gone = {_ARRAYS[feature]: None} if feature in _ARRAYS else {}
            yield from _changed(problem, extras._replace(**gone), fields, Explanation("ignores", words))
    if problem.causal:
        yield from _changed(problem, extras, {"causal": False}, Explanation("ignores", "causality"))
    else:
        as_causal = Explanation("misreads", "full attention as causal")
        yield from _changed(problem, extras, {"causal": True}, as_causal)
    if problem.softmax_scale is not None:
        scale = Explanation("ignores", "the softmax scale")
        yield from _changed(problem, extras, {"softmax_scale": None}, scale)
    if problem.causal or "window" in problem.features:
        other = "top-left" if problem.causal_alignment == "bottom-right" else "bottom-right"
        words = f"{problem.causal_alignment} alignment as {other}"
        yield from _changed(problem, extras, {"causal_alignment": other}, Explanation("misreads", words))
    for side in ("left", "right"):
        size = getattr(problem, f"window_{side}")
        for step, more in ((1, "more"), (-1, "less")):
            if size is not None and size + step >= 0:
                shifted = Explanation("misreads", f"the window's {side} side as one key {more}")
                yield from _changed(problem, extras, {f"window_{side}": size + step}, shifted)
    if extras.alibi_slopes is not None:
        slopes = np.broadcast_to(extras.alibi_slopes[:, :1], extras.alibi_slopes.shape)
        of_first = Explanation("misreads", "the first head's slope as that of all heads")
        yield Reading(of_first, problem, extras._replace(alibi_slopes=slopes))
    if extras.mask is not None and not isinstance(extras.mask, BlockMask):
        mask = np.broadcast_to(extras.mask[:1, :1], extras.mask.shape)
        of_first = Explanation("misreads", "the first head's mask as that of all heads")
        yield Reading(of_first, problem, extras._replace(mask=mask))
    if problem.dropout:
        drawn = Explanation("misreads", "the seed of dropout as another")
        yield from _changed(problem, extras, {"dropout_seed": problem.dropout_seed ^ 1}, drawn)


def _changed(
    problem: AttentionProblem, extras: Extras, fields: dict[str, Any], explanation: Explanation
) -> Iterator[Reading]:
    try:
        other = msgspec.convert(msgspec.to_builtins(problem) | fields, AttentionProblem)
    except (AttentionError, msgspec.ValidationError):  # packed queries, for instance, need lengths of keys
        return
    if other != problem:
        yield Reading(explanation, other, extras)
