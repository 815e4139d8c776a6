"""Whether a problem fits in memory, computed before anything runs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from flashbench.analysis.lengths import with_length
from flashbench.engines import Outline, Settings, refusal
from flashbench.problem import AttentionProblem, Direction

# Sequences longer than this are not searched for: 2^40 rows fit nowhere.
LONGEST_SEQLEN = 2**40


class TrainingFit(NamedTuple):
    """Whether a training step (forward, then backward) of one engine fits in a memory budget."""

    engine: str
    needed_bytes: int
    fits: bool
    longest_seqlen: int  # queries and keys alike; 0: not even one


def predicted_bytes(
    problem: AttentionProblem, engine: Outline, direction: Direction, settings: Settings
) -> int:
    """Inputs, a mask, outputs and workspace, all at once; no workspace where the engine cannot tell it.

    The backward alone needs what both directions need: a forward goes before it, and what that keeps
    stays.
    """
    if direction == "bwd":
        direction = "fwd_bwd"
    workspace = engine.workspace_bytes(problem, direction, settings)
    arrays = problem.input_bytes(direction) + _mask_bytes(problem) + problem.output_bytes(direction)
    return arrays + (workspace or 0)


def _mask_bytes(problem: AttentionProblem) -> int:
    """Of a mask as `make_extras` makes it; of a block mask at most."""
    if problem.mask is None:
        return 0
    pairs = math.prod(problem.mask_shape)
    return pairs * problem.itemsize if problem.mask == "float" else pairs


def training_fit(
    problem: AttentionProblem, engine: Outline, settings: Settings, budget_bytes: int
) -> TrainingFit | None:
    """Whether a training step fits, and the longest sequence whose step would.

    None when the engine cannot run the step or tell its workspace.
    """
    if refusal(engine, problem, "fwd_bwd") or engine.workspace_bytes(problem, "fwd_bwd", settings) is None:
        return None

    def needed(seqlen: int) -> int:
        longer = with_length(problem, seqlen, seqlen)
        return predicted_bytes(longer, engine, "fwd_bwd", settings)

    own = predicted_bytes(problem, engine, "fwd_bwd", settings)
    return TrainingFit(engine.name, own, own <= budget_bytes, _longest(needed, budget_bytes))


def _longest(needed: Callable[[int], int], budget_bytes: int) -> int:
    """The largest length that needs no more than the budget: doubled until too long, then halved in on."""
    too_long = 1
    while needed(too_long) <= budget_bytes and too_long < LONGEST_SEQLEN:
        too_long *= 2
    return bisect_right(range(1, too_long), budget_bytes, key=needed)
