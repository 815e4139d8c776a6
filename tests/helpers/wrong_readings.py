"""Plug-in engines that answer another problem than they get: they ignore a feature, or misread it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.engines import AttentionGradients, Forward
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem
from helpers.oracle_engine import Oracle


class Featured(Oracle):
    """Correct for every feature. The other engines of this file answer another problem than they get."""

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        return problem, extras

    def forward(
        self, problem: AttentionProblem, *rest: Any, extras: Extras = NO_EXTRAS, **options: Any
    ) -> Forward:
        problem, extras = self.understood(problem, extras)
        return super().forward(problem, *rest, extras=extras, **options)

    def backward(
        self, problem: AttentionProblem, *rest: Any, extras: Extras = NO_EXTRAS, **options: Any
    ) -> AttentionGradients:
        problem, extras = self.understood(problem, extras)
        return super().backward(problem, *rest, extras=extras, **options)


class _Without(Featured):
    """Ignores a field of the problem."""

    field: str
    value: Any = None

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        return msgspec.structs.replace(problem, **{self.field: self.value}), extras


class WithoutSoftcap(_Without):
    field = "softcap"


class WithoutAlibi(_Without):
    field = "alibi"
    value = False


class WithoutMask(_Without):
    field = "mask"


class WithoutSinks(_Without):
    field = "sinks"
    value = False


class WithoutKeyLengths(_Without):
    field = "key_lengths"


class WithoutDropout(_Without):
    field = "dropout"
    value = 0.0


class TopLeftAlways(_Without):
    """Aligns top-left also if lengths differ, as in a packed batch."""

    field = "causal_alignment"
    value = "top-left"


class ShiftedWindow(Featured):
    """Sees one key too many on the left."""

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        if problem.window_left is not None:
            problem = msgspec.structs.replace(problem, window_left=problem.window_left + 1)
        return problem, extras


class OneSlopeForAll(Featured):
    """Uses the first head's slope for all heads."""

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        slopes = extras.alibi_slopes
        if slopes is not None:
            extras = extras._replace(alibi_slopes=np.broadcast_to(slopes[:, :1], slopes.shape))
        return problem, extras


class OneMaskForAll(Featured):
    """Uses the mask of the first sequence and head for all."""

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
        if mask is not None:
            first = np.broadcast_to(mask[:1, :1], mask.shape)
            extras = extras._replace(
                mask=BlockMask.from_mask(first) if isinstance(extras.mask, BlockMask) else first
            )
        return problem, extras


class OtherDropoutBits(Featured):
    """Exact dropout, but not with the promised random bits."""

    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        return msgspec.structs.replace(problem, dropout_seed=problem.dropout_seed ^ 1), extras


class PagesInOrder(Featured):
    def understood(self, problem: AttentionProblem, extras: Extras) -> tuple[AttentionProblem, Extras]:
        table = extras.block_table
        return problem, extras if table is None else extras._replace(
            block_table=np.sort(table, axis=None).reshape(table.shape)
        )
