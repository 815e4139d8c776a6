"""Attention as people write it today: four lines of NumPy, every score in memory.

    scores = scale * q @ k.T
    p = exp(scores - scores.max(axis=-1))
    p /= p.sum(axis=-1)
    o = p @ v

BLAS computes the products. Hidden keys and values are multiplied by a weight of zero, so a NaN or an infinity
there reaches the rows that do not see it: these lines do just that. 16-bit floats are computed as float32.
"""

from __future__ import annotations

import contextlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from flashbench.dtypes import DTYPES, NARROWEST_FIRST, accumulator_of, bytes_to_round, is_half
from flashbench.engines.base import EngineBase
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction


class NumpyEngine(EngineBase):
    """The baseline of a user who has NumPy alone."""

    name = "numpy"
    summary = "textbook attention in four lines of NumPy (BLAS), scores materialised"
    dtypes = NARROWEST_FIRST

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o = softmax(scale q k^T) v; keep=True saves p for backward."""
        entry = DTYPES[problem.dtype]
        q, k, v = (entry.view(x) for x in (q, k, v))
        with _threads(settings.num_threads), np.errstate(all="ignore"):
            p, lse = _softmax(problem, q, k)
            o = entry.make(_join(p @ v[:, :, None]))
        return Forward(o, _join(lse), p if keep else None)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        """Gradients through p: from `forward.saved`, or recomputed."""
        entry = DTYPES[problem.dtype]
        do, q, k, v, o = (entry.view(x) for x in (do, q, k, v, forward.o))
        with _threads(settings.num_threads), np.errstate(all="ignore"):
            p = _softmax(problem, q, k)[0] if forward.saved is None else forward.saved
            do = _split(problem, do)
            dv = entry.make(_add_heads(p.swapaxes(3, 4) @ do))
            ds = do @ v[:, :, None].swapaxes(3, 4)
            ds -= np.einsum("...d,...d->...", do, _split(problem, o))[..., None]
            ds *= p
            ds *= problem.scale
            dq = entry.make(_join(ds @ k[:, :, None]))
            dk = entry.make(_add_heads(ds.swapaxes(3, 4) @ _split(problem, q)))
        return AttentionGradients(dq, dk, dv)

    def workspace_bytes(
        self, problem: AttentionProblem, direction: Direction, settings: Settings
    ) -> int | None:
        """Forward: the scores, twice with a mask. Backward: ds, beside the p that the forward kept.

        16-bit dtypes also need float32 copies of the inputs, and of each result until it is rounded. BLAS's
        own buffers are not counted: OpenBLAS on several threads takes 512 KiB.
        """
        number_bytes = accumulator_of(problem.dtype).itemsize
        rows = problem.batch * problem.num_heads * problem.seqlen_q * number_bytes
        scores = rows * problem.seqlen_k
        # NumPy copies the operand that it broadcasts along the rows of the scores into a buffer.
        broadcast = min(scores, np.getbufsize() * number_bytes)
        softmax = scores + 2 * rows + max(rows, broadcast)  # row_max, row_sum and its logarithm
        if problem.causal:  # the mask, and the scores before and after it
            softmax = max(softmax, 2 * scores + problem.seqlen_q * problem.seqlen_k)
        heads = (
            0  # gradients of a key by each query head, before query heads that share a key head are summed
        )
        if problem.num_heads != problem.num_kv_heads:
            heads = problem.batch * problem.num_heads * problem.seqlen_k * number_bytes
        q, k, v, o = problem.numbers
        wide = number_bytes * is_half(problem.dtype)  # bytes of a float32 copy of a 16-bit number
        rounding = wide + bytes_to_round(problem.dtype)
        forward = wide * (q + k + v) + max(softmax, scores + rounding * o)
        of_values = max(heads * problem.head_dim_v + wide * v, rounding * v)
        of_keys = max(heads * problem.head_dim + wide * k, rounding * k)
        gradients = max(of_values, scores + max(rows + broadcast, of_keys, rounding * q))
        backward = wide * (q + k + v + 2 * o) + gradients
        return {"fwd": forward, "bwd": backward, "fwd_bwd": max(forward, scores + backward)}[direction]


def _softmax(problem: AttentionProblem, q: Array, k: Array) -> tuple[Array, Array]:
    """p: (batch, num_kv_heads, group, seqlen_q, seqlen_k), and lse, the log of its denominators."""
    scores: Array = _split(problem, q) @ k[:, :, None].swapaxes(3, 4)
    scores *= problem.scale
    if problem.causal:
        scores = np.where(_visible(problem), scores, scores.dtype.type(-np.inf))
    row_max = scores.max(axis=-1, keepdims=True)
    scores -= row_max
    np.exp(scores, out=scores)
    row_sum = scores.sum(axis=-1, keepdims=True)
    scores /= row_sum
    lse = (row_max + np.log(row_sum))[..., 0]
    if problem.causal and problem.diagonal_offset < 0:
        # The first rows see no key, and -inf - -inf is NaN.
        scores[..., : -problem.diagonal_offset, :] = 0.0
        lse[..., : -problem.diagonal_offset] = -np.inf
    return scores, lse


def _visible(problem: AttentionProblem) -> NDArray[np.bool_]:
    return np.tri(problem.seqlen_q, problem.seqlen_k, problem.diagonal_offset, dtype=np.bool_)


def _split(problem: AttentionProblem, x: Array) -> Array:
    """(batch, num_heads, ...) to (batch, num_kv_heads, group, ...), so that keys broadcast over a group."""
    group = problem.num_heads // problem.num_kv_heads
    return x.reshape(problem.batch, problem.num_kv_heads, group, *x.shape[2:])


def _join(x: Array) -> Array:
    """The inverse of `_split`. x is contiguous, so this is a view."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


def _add_heads(x: Array) -> Array:
    """Sum the gradients of the query heads that share a key head."""
    return x[:, :, 0] if x.shape[2] == 1 else x.sum(axis=2)


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # cached: it searches every loaded library


def _threads(num_threads: int | None) -> contextlib.AbstractContextManager[object]:
    """Limit BLAS to this many threads; None: BLAS chooses."""
    if num_threads is None:
        return contextlib.nullcontext()
    limiter: contextlib.AbstractContextManager[object] = _controller().limit(
        limits=num_threads, user_api="blas"
    )
    return limiter
