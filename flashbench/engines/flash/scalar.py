"""The scalar loops on NumPy arrays. Engine `flash` runs them if use_simd is off.

The loops compute on float32 copies of 16-bit arrays. Their results are rounded at the end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, accumulator_of, bytes_to_round, is_half
from flashbench.engines import Array, AttentionGradients, Forward
from flashbench.engines.launch import COLUMN, broadcast_gradient, no_tasks, sequence_table
from flashbench.extras import Extras
from flashbench.kernels.call.visibility import NO_LIMIT
from flashbench.kernels.scalar import (
    BackwardInputs,
    Gradients,
    ScalarFeatures,
    scalar_backward,
    scalar_forward,
)
from flashbench.problem import AttentionProblem, Direction


def forward_by_loops(problem: AttentionProblem, q: Array, k: Array, v: Array, extras: Extras) -> Forward:
    """o (batch, num_heads, seqlen_q, head_dim_v) and lse (batch, num_heads, seqlen_q)."""
    entry, number = DTYPES[problem.dtype], accumulator_of(problem.dtype).storage
    q, k, v = (entry.view(x) for x in (q, k, v))
    o = np.empty((*problem.q_shape[:3], problem.head_dim_v), number)
    lse = np.empty(problem.q_shape[:3], number)
    scalar_forward(q, k, v, o, lse, _sequences(problem), _features(problem, extras))
    with np.errstate(over="ignore"):  # a sum may be too large for float16
        return Forward(entry.make(o), lse)


def backward_by_loops(
    problem: AttentionProblem,
    do: Array,
    q: Array,
    k: Array,
    v: Array,
    forward: Forward,
    extras: Extras,
    *,
    mask_gradient: bool,
) -> AttentionGradients:
    """All gradients of the problem; dmask only if `mask_gradient`."""
    entry, number = DTYPES[problem.dtype], accumulator_of(problem.dtype).storage
    do, q, k, v, o = (entry.view(x) for x in (do, q, k, v, forward.o))
    dq, dk, dv = (np.zeros(x.shape, number) for x in (q, k, v))
    dsinks = np.zeros(problem.num_heads)
    wanted = mask_gradient and problem.mask == "float"
    dmask = np.zeros(problem.mask_shape if wanted else (1, 1, 1, 1), number)
    gradients = Gradients(dq, dk, dv, dsinks, broadcast_gradient(dmask, _mask_shape(problem)))
    inputs = BackwardInputs(do, q, k, v, o, forward.lse)
    scalar_backward(inputs, gradients, _sequences(problem), _features(problem, extras))
    with np.errstate(over="ignore"):  # a gradient may be too large for float16
        dq, dk, dv = (entry.make(x) for x in (dq, dk, dv))
    return AttentionGradients(
        dq, dk, dv, dsinks.astype(number) if problem.sinks else None, dmask if wanted else None
    )


def workspace_of_loops(problem: AttentionProblem, direction: Direction) -> int:
    """Bytes: the dense copy of a block mask, and for 16-bit dtypes float32 copies of inputs and results."""
    mask = int(np.prod(problem.mask_shape)) if problem.mask == "block" else 0
    if not is_half(problem.dtype):
        return mask
    q, k, v, o = problem.numbers
    wide, rounding = accumulator_of(problem.dtype).itemsize, bytes_to_round(problem.dtype)
    forward = mask + wide * (q + k + v + o) + rounding * o
    backward = mask + wide * (2 * (q + k + v) + 2 * o) + rounding * max(q, k, v)
    return {"fwd": forward, "bwd": backward, "fwd_bwd": max(forward, backward)}[direction]


def _sequences(problem: AttentionProblem) -> NDArray[np.int64]:
    return np.ascontiguousarray(sequence_table(problem, no_tasks)[:, : COLUMN.tiles_before])


def _mask_shape(problem: AttentionProblem) -> tuple[int, int, int, int]:
    return problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k


def _features(problem: AttentionProblem, extras: Extras) -> ScalarFeatures:
    """The features of one call. Masks that are off are broadcast from one entry."""
    shape, dtype = _mask_shape(problem), np.dtype(accumulator_of(problem.dtype).storage)
    left, right = problem.window
    mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
    visible, bias = np.True_, dtype.type(0)
    slopes, sinks = np.zeros(shape[:2], dtype), np.full(problem.num_heads, -np.inf, dtype)
    if extras.alibi_slopes is not None:
        slopes[...] = extras.alibi_slopes
    if extras.sinks is not None:
        sinks[...] = extras.sinks
    return ScalarFeatures(
        problem.scale,
        NO_LIMIT if left is None else left,
        NO_LIMIT if right is None else right,
        problem.softcap or 0.0,
        slopes,
        np.broadcast_to(mask if problem.mask == "float" and mask is not None else bias, shape),
        np.broadcast_to(visible if problem.mask == "float" or mask is None else mask, shape),
        sinks,
        1 / (1 - problem.dropout),
        min(round(problem.dropout * 2**32), 2**32 - 1),
        np.uint64(problem.dropout_seed),
        problem.page_size or 0,
        np.zeros((1, 1), np.int64) if extras.block_table is None else np.array(extras.block_table, np.int64),
    )
