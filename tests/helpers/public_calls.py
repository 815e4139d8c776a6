"""Turns a problem and its extras into keywords of the public functions, and arrays into the packed layout."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.extras import Extras
from flashbench.problem import AttentionProblem


def own_mask(problem: AttentionProblem, extras: Extras) -> Any:
    """The mask before it was broadcast."""
    if extras.mask is None or isinstance(extras.mask, BlockMask):
        return extras.mask
    return extras.mask[tuple(slice(size) for size in problem.mask_shape)]


def options_of(problem: AttentionProblem, extras: Extras) -> dict[str, Any]:
    """All keywords of the public functions; for packed sequences, without their lengths."""
    options: dict[str, Any] = {
        "softmax_scale": problem.softmax_scale,
        "causal": problem.causal,
        "causal_alignment": problem.causal_alignment,
        "window": (problem.window_left, problem.window_right),
        "softcap": problem.softcap,
        "alibi_slopes": extras.alibi_slopes,
        "mask": own_mask(problem, extras),
        "sinks": extras.sinks,
        "dropout": problem.dropout,
        "dropout_seed": problem.dropout_seed,
    }
    if not problem.packed:
        options |= {"key_lengths": problem.key_lengths, "block_table": extras.block_table}
    return options


def cu_seqlens(lengths: tuple[int, ...] | None) -> list[int]:
    """The first row of each sequence with these lengths, and the end of the last."""
    assert lengths is not None
    return list(accumulate(lengths, initial=0))


def packed(x: np.ndarray) -> np.ndarray:
    """(1, num_heads, total, ...) as (total, num_heads, ...), in memory of that order."""
    return np.ascontiguousarray(x[0].swapaxes(0, 1))
