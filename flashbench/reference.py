"""The float64 oracle: textbook attention and its gradients in NumPy, one block of query rows at a time.

It shares no code with any engine, and reads like the formulas in Dao et al. 2022, "FlashAttention":
p = softmax(softmax_scale * q k^T), o = p v. Slow, sure, and never N x N.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from flashbench.problem import AttentionProblem

Array = NDArray[np.floating]
Array64 = NDArray[np.float64]
Visible = NDArray[np.bool_]

# Scores of one block of query rows: 256 x 8192 float64 take 16 MiB, which keeps a check of a long
# problem small beside what it checks.
ROWS_PER_BLOCK = 256


class ReferenceGradients(NamedTuple):
    """Gradients of sum(do * o) in float64, in the shapes of q, k and v."""

    dq: Array64
    dk: Array64
    dv: Array64


def attention_reference(problem: AttentionProblem, q: Array, k: Array, v: Array) -> tuple[Array64, Array64]:
    """o: (batch, num_heads, seqlen_q, head_dim_v) and lse: (batch, num_heads, seqlen_q), both float64.

    q: (batch, num_heads, seqlen_q, head_dim), k and v: (batch, num_kv_heads, seqlen_k, ...), of any
    float dtype. A row without a visible key gives o = 0 and lse = -inf. A key or value that a row does
    not see cannot reach it, whatever it holds, NaN included.
    """
    group = problem.num_heads // problem.num_kv_heads
    o = np.zeros((problem.batch, problem.num_heads, problem.seqlen_q, problem.head_dim_v))
    lse = np.full(o.shape[:3], -np.inf)
    with np.errstate(all="ignore"):  # NaN and infinity are answers here, not accidents
        for b, h in np.ndindex(problem.batch, problem.num_heads):
            head = (_float64(x[b, i]) for x, i in ((q, h), (k, h // group), (v, h // group)))
            o[b, h], lse[b, h] = _forward_head(problem, *head)
    return o, lse


def attention_backward_reference(
    problem: AttentionProblem, do: Array, q: Array, k: Array, v: Array
) -> ReferenceGradients:
    """dq, dk and dv of sum(do * o) in float64; query heads that share a key head add up in dk and dv.

    Shapes as in `attention_reference`, do like o. Zero for rows without a visible key.
    """
    group = problem.num_heads // problem.num_kv_heads
    dq, dk, dv = (np.zeros(x.shape) for x in (q, k, v))
    with np.errstate(all="ignore"):
        for b, h in np.ndindex(problem.batch, problem.num_heads):
            kv = h // group
            head = (_float64(x[b, i]) for x, i in ((do, h), (q, h), (k, kv), (v, kv)))
            dq_head, dk_head, dv_head = _backward_head(problem, *head)
            dq[b, h] = dq_head
            dk[b, kv] += dk_head
            dv[b, kv] += dv_head
    return ReferenceGradients(dq, dk, dv)


def head_group(
    problem: AttentionProblem, batch: int, kv_head: int
) -> tuple[AttentionProblem, tuple[slice, slice], tuple[slice, slice]]:
    """One key head with the query heads that share it, as a problem of its own.

    Returns that problem, the index of its part of q, do, o, lse and dq, and the index of its part of
    k, v, dk and dv. Groups do not influence each other, so a big problem can be checked on a few.

    >>> problem, queries, keys = head_group(AttentionProblem.of(8, num_heads=6, num_kv_heads=2), 0, 1)
    >>> problem.num_heads, problem.num_kv_heads, queries, keys
    (3, 1, (slice(0, 1, None), slice(3, 6, None)), (slice(0, 1, None), slice(1, 2, None)))
    """
    group = problem.num_heads // problem.num_kv_heads
    part = msgspec.structs.replace(problem, batch=1, num_heads=group, num_kv_heads=1)
    rows = slice(batch, batch + 1)
    return (
        part,
        (rows, slice(kv_head * group, (kv_head + 1) * group)),
        (rows, slice(kv_head, kv_head + 1)),
    )


def largest_error(actual: Array, expected: Array) -> float:
    """Largest absolute difference; infinite when NaN or an infinity is missing, misplaced or of other sign.

    >>> largest_error(np.array([1.0, -np.inf]), np.array([1.5, -np.inf]))
    0.5
    >>> largest_error(np.array([0.0]), np.array([np.nan]))
    inf
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} is not {expected.shape}")
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return float("inf")
    # A misplaced NaN or infinity in `actual` makes the maximum so, which is never within a tolerance.
    with np.errstate(invalid="ignore"):
        error = float(np.max(np.abs(actual[finite] - expected[finite]), initial=0.0))
    return float("inf") if np.isnan(error) else error


def worst_place(actual: Array, expected: Array) -> tuple[int, ...]:
    """Index of the largest absolute difference, a misplaced NaN or infinity being larger than any.

    >>> worst_place(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.5, np.nan]))
    (1,)
    """
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected)
    difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return tuple(int(i) for i in np.unravel_index(np.argmax(difference), difference.shape))


def _float64(x: Array) -> Array64:
    return np.ascontiguousarray(x, dtype=np.float64)


def _row_blocks(problem: AttentionProblem, *arrays: Array64) -> Iterator[tuple[slice, int, Visible]]:
    """Blocks of query rows, the number of keys that matter to them, and which scores are visible.

    When every value is finite, a masked weight of zero is harmless in a product and blocks are large.
    Otherwise 0 * NaN would leak what the mask hides: then a block is one row, and its keys are cut off
    where its sight ends, so that nothing is masked at all.
    """
    size = ROWS_PER_BLOCK if all(np.isfinite(x).all() for x in arrays) else 1
    for start in range(0, problem.seqlen_q, size):
        rows = slice(start, min(start + size, problem.seqlen_q))
        seen = np.full(rows.stop - start, problem.seqlen_k)
        if problem.causal:  # query i sees the keys 0 .. i + diagonal_offset
            seen = np.clip(np.arange(start, rows.stop) + problem.diagonal_offset + 1, 0, problem.seqlen_k)
        keys = int(seen[-1])
        if keys:
            yield rows, keys, np.arange(keys) < seen[:, None]


def _probabilities(scale: float, q: Array64, k: Array64, visible: Visible) -> tuple[Array64, Array64]:
    """softmax over the visible keys of each row, zero elsewhere, and the log of its denominator."""
    s = np.where(visible, scale * (q @ k.T), -np.inf)
    row_max = s.max(axis=1, keepdims=True)
    p = np.exp(s - row_max)
    row_sum = p.sum(axis=1, keepdims=True)
    lse = np.where(visible.any(axis=1), (row_max + np.log(row_sum))[:, 0], -np.inf)
    return np.where(visible, p / row_sum, 0.0), lse


def _forward_head(problem: AttentionProblem, q: Array64, k: Array64, v: Array64) -> tuple[Array64, Array64]:
    """o: (seqlen_q, head_dim_v) and lse: (seqlen_q,) of one head."""
    o = np.zeros((problem.seqlen_q, problem.head_dim_v))
    lse = np.full(problem.seqlen_q, -np.inf)
    for rows, keys, visible in _row_blocks(problem, q, k, v):
        p, lse[rows] = _probabilities(problem.scale, q[rows], k[:keys], visible)
        o[rows] = p @ v[:keys]
    return o, lse


def _backward_head(
    problem: AttentionProblem, do: Array64, q: Array64, k: Array64, v: Array64
) -> tuple[Array64, Array64, Array64]:
    """dq, dk and dv of one head.

    o = p v gives dv = p^T do and dp = do v^T; softmax gives ds = p * (dp - sum(p * dp)); s = scale q k^T
    gives dq = scale ds k and dk = scale ds^T q.
    """
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for rows, keys, visible in _row_blocks(problem, q, k, v, do):
        p, _ = _probabilities(problem.scale, q[rows], k[:keys], visible)
        dp = np.where(visible, do[rows] @ v[:keys].T, 0.0)
        ds = np.where(visible, p * (dp - (p * dp).sum(axis=1, keepdims=True)), 0.0)
        dq[rows] = problem.scale * ds @ k[:keys]
        dk[:keys] += problem.scale * ds.T @ q[rows]
        dv[:keys] += p.T @ do[rows]
    return dq, dk, dv
