"""Predicts the bytes of one problem, and the longest sequence that fits in a budget."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from flashbench.analysis.lengths import with_length
from flashbench.dtypes import accumulator_of
from flashbench.engines import Outline, Settings, refusal
from flashbench.problem import AttentionProblem, Direction

# The search ends at this length: 2^40 rows fit in no memory.
LONGEST_SEQLEN = 2**40


class TrainingFit(NamedTuple):
    """Whether a training step (forward, then backward) of one engine fits in a memory budget."""

    engine: str
    needed_bytes: int
    fits: bool
    longest_seqlen: int  # seqlen_q = seqlen_k; 0: not even 1 fits


def predicted_bytes(
    problem: AttentionProblem, engine: Outline, direction: Direction, settings: Settings
) -> int:
    """Bytes of inputs, mask, outputs and workspace together. The workspace is 0 if the engine does not know
    it.

    "bwd" needs as much as "fwd_bwd": a forward runs before it, and what the forward keeps stays in memory.
    """
    if direction == "bwd":
        direction = "fwd_bwd"
    workspace = engine.workspace_bytes(problem, direction, settings)
    arrays = problem.input_bytes(direction) + _mask_bytes(problem) + problem.output_bytes(direction)
    return arrays + (workspace or 0)


def _mask_bytes(problem: AttentionProblem) -> int:
    """Bytes of a mask that `make_extras` makes; for a block mask the largest possible number."""
    if problem.mask is None:
        return 0
    pairs = math.prod(problem.mask_shape)
    return pairs * accumulator_of(problem.dtype).itemsize if problem.mask == "float" else pairs


def training_fit(
    problem: AttentionProblem, engine: Outline, settings: Settings, budget_bytes: int
) -> TrainingFit | None:
    """Whether a training step fits in the budget, and the longest sequence with a step that fits.

    None if the engine cannot run the step, or does not know its workspace.
    """
    if refusal(engine, problem, "fwd_bwd") or engine.workspace_bytes(problem, "fwd_bwd", settings) is None:
        return None

    def needed(seqlen: int) -> int:
        longer = with_length(problem, seqlen, seqlen)
        return predicted_bytes(longer, engine, "fwd_bwd", settings)

    own = predicted_bytes(problem, engine, "fwd_bwd", settings)
    return TrainingFit(engine.name, own, own <= budget_bytes, _longest(needed, budget_bytes))


def _longest(needed: Callable[[int], int], budget_bytes: int) -> int:
    """The largest length that fits in the budget, by doubling until it is too long, then bisection."""
    too_long = 1
    while needed(too_long) <= budget_bytes and too_long < LONGEST_SEQLEN:
        too_long *= 2
    return bisect_right(range(1, too_long), budget_bytes, key=needed)
