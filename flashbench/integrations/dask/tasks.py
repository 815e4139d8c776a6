"""What one task computes from the chunks that it gets. A task never writes into them: it may run again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from flashbench.arguments.arrays import accumulator_dtype, as_published, as_stored
from flashbench.chunks.parts import Part
from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Array
from flashbench.engines.features import sinks_gradient
from flashbench.extras import Extras
from flashbench.functional import AttentionOutput, attention, attention_backward
from flashbench.merge import merge_attention
from flashbench.problem import AttentionProblem

KeyGradients = tuple[Array, Array]

# Numbers of o. So that a merge takes little memory beside its result.
_MERGED_AT_ONCE = 2**17


@dataclass(frozen=True, eq=False)
class Setting:
    """The options of one chunk of batch and heads."""

    dtype: Dtype
    softmax_scale: float
    softcap: float | None
    slopes: Array | None  # (batch, num_heads) of this chunk

    def numbers(self, x: Array) -> Array:
        """A chunk in the dtype that it is computed in: 16-bit numbers as float32.

        So the parts of o and of the gradients are rounded to 16 bits once, when they have been added up.
        """
        return DTYPES[self.dtype].view(as_stored(x, self.dtype))

    def publish(self, x: Array) -> Array:
        """A result in the dtype of q."""
        return as_published(DTYPES[self.dtype].make(x), self.dtype)

    def options(self, part: Part) -> dict[str, Any]:
        """The keywords of attention for this part."""
        return {
            "softmax_scale": self.softmax_scale,
            "softcap": self.softcap,
            "causal_alignment": "top-left",
            "window": part.window,
            "mask": None if self.slopes is None else self._biases(self.slopes[part.sequences], part),
        }

    def _biases(self, slopes: Array, part: Part) -> Array:
        """ALiBi as a mask of floats, (sequences, num_heads, queries, keys).

        Attention has its diagonals at no other place than a corner. Along a diagonal the bias is one number,
        so the mask is a view of as many numbers as there are diagonals.
        """
        queries, keys = (side.stop - side.start for side in (part.queries, part.keys))
        distance = np.abs(part.diagonal + queries - 1 - np.arange(queries + keys - 1))
        of_diagonals = -slopes.astype(np.float64)[..., np.newaxis] * distance
        of_diagonals = of_diagonals.astype(accumulator_dtype(self.dtype), copy=False)
        return np.asarray(sliding_window_view(of_diagonals, keys, axis=-1)[..., ::-1, :])


Chunks = tuple[Array, ...]  # of one chunk of queries, or of keys: what `together` loaded


def together(after: object, *chunks: Array) -> Chunks:
    """Chunks as one result, which travels as one. `after` is what has to be done before."""
    return chunks


def nothing(found: object) -> None:
    """Says that `found` is there, in a result that costs nothing to send."""


def attend(
    setting: Setting, parts: Sequence[Part], before: AttentionOutput | None, queries: Chunks, keys: Chunks
) -> AttentionOutput:
    """Attention of a chunk of queries to the key chunks so far: merges one more into `before`.

    queries: (q,). keys: (k, v). The result is in float64 for every dtype, so that a long chain of merges adds
    no rounding that counts.
    """
    q, k, v = map(setting.numbers, (*queries, *keys))
    o = np.zeros((*q.shape[:3], v.shape[3]))
    lse = np.full(q.shape[:3], -np.inf)
    for part in parts:
        rows, of_keys = part.of_queries, part.of_keys
        options = setting.options(part)
        o[rows], lse[rows] = attention(q[rows], k[of_keys], v[of_keys], return_lse=True, **options)
    if before is not None:
        batch, heads, *of_head = o.shape
        step = max(1, _MERGED_AT_ONCE // math.prod(of_head))
        for b, h in itertools.product(range(batch), range(0, heads, step)):
            at = b, slice(h, h + step)
            o[at], lse[at] = merge_attention([before.o[at], o[at]], [before.lse[at], lse[at]])
    return AttentionOutput(o, lse)


def finish(
    setting: Setting, shape: tuple[int, ...], sinks: Array | None, found: AttentionOutput | None
) -> AttentionOutput:
    """o and lse in their dtypes, from what `attend` found in all key chunks; None if all are hidden.

    shape: of o. A sink is like a key with the logit and a value of 0.
    """
    if found is None:
        found = AttentionOutput(np.zeros(shape), np.full(shape[:3], -np.inf))
    if sinks is not None:
        logits = np.broadcast_to(sinks[:, np.newaxis].astype(np.float64), shape[:3])
        found = merge_attention([found.o, np.zeros(shape)], [found.lse, logits])
    return AttentionOutput(setting.publish(found.o), found.lse.astype(accumulator_dtype(setting.dtype)))


def pair_gradients(
    setting: Setting,
    parts: Sequence[Part],
    dq: Array | None,
    dk_dv: KeyGradients | None,
    queries: Chunks,
    keys: Chunks,
) -> tuple[Array, KeyGradients]:
    """dq of a chunk of queries, and dk and dv of a chunk of keys: adds their pair's share to the sums so far.

    queries: (do, q, o, lse), o and lse those of all keys. keys: (k, v). A pair's probabilities are
    exp(s - lse), and delta is the sum of do * o, so the share needs nothing of other pairs. The sums are in
    the accumulator's dtype.
    """
    *of_queries, lse = queries
    do, q, o, k, v = map(setting.numbers, (*of_queries, *keys))
    dq = np.zeros_like(q) if dq is None else dq.copy()
    dk, dv = map(np.zeros_like, (k, v)) if dk_dv is None else map(np.copy, dk_dv)
    for part in parts:
        rows, of_keys = part.of_queries, part.of_keys
        arrays = do[rows], q[rows], k[of_keys], v[of_keys], o[rows], lse[rows]
        share = attention_backward(*arrays, **setting.options(part))
        with np.errstate(invalid="ignore"):  # NaN and infinity are valid results
            dq[rows] += share.dq
            dk[of_keys] += share.dk
            dv[of_keys] += share.dv
    return dq, (dk, dv)


def finish_gradient(setting: Setting, shape: tuple[int, ...], found: Array | None) -> Array:
    """A gradient of this shape in q's dtype; None: no pair is visible."""
    return setting.publish(np.zeros(shape) if found is None else found)


def sinks_share(problem: AttentionProblem, sinks: Array, queries: Chunks) -> Array:
    """The share of a chunk of queries (do, q, o, lse) in dsinks, (num_heads of the chunk,)."""
    do, _, o, lse = queries
    do, o = (as_stored(x, problem.dtype) for x in (do, o))
    share = sinks_gradient(problem, Extras(sinks=sinks), do, o, lse)
    assert share is not None
    return share
