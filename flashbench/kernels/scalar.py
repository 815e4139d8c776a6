"""The readable reference: flash attention as scalar loops, one query and one key at a time.

`use_simd=False` runs it. Each loop nest is the textbook's; the SIMD kernels compute the same sums over tiles.
Arrays: q, o, do (batch, num_heads, seqlen_q, ...); k, v (batch, num_kv_heads, seqlen_k, ...). Each row of the
table `sequences` is one sequence: batch index, first query, first key, seqlen_q, seqlen_k, diagonal.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from flashbench.codegen.compiled import compiled

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10


class ScalarFeatures(NamedTuple):
    """The optional features. A feature that is off has a neutral value.

    Masks: (batch, num_heads, seqlen_q, seqlen_k), indexed by sequence and by positions in it.
    """

    scale: float
    left: int  # keys before the diagonal that a query attends to
    right: int  # keys after the diagonal
    softcap: float  # 0: off
    slopes: Any  # (batch, num_heads)
    bias: Any  # the float mask
    mask: Any  # the bool mask
    sinks: Any  # (num_heads,); -inf: none
    keep_factor: float  # 1 / (1 - dropout)
    threshold: int  # a pair is kept if its random word is at least this
    seed: Any  # uint64
    page_size: int  # 0: no pages
    pages: Any  # the block table


@njit(nogil=True)
def key_place(batch, first_key, b, j, features):
    """(batch entry or page, row) of key j of sequence b in k and v."""
    if features.page_size > 0:
        return features.pages[b, j // features.page_size], j % features.page_size
    return batch, first_key + j


@njit(nogil=True)
def logit(q_row, k_row, b, h, i, j, diagonal, features):
    """(s, tanh): the input of softmax, and the tanh of softcap (0 without softcap)."""
    score, capped = 0.0, 0.0
    for c in range(len(q_row)):
        score += q_row[c] * k_row[c]
    score *= features.scale
    if features.softcap > 0:
        capped = math.tanh(score / features.softcap)
        score = features.softcap * capped
    score -= features.slopes[b, h] * abs(i + diagonal - j)
    return score + features.bias[b, h, i, j], capped


@njit(nogil=True)
def sees(b, h, i, j, diagonal, features):
    """Whether query i of a sequence attends to key j."""
    own = i + diagonal
    if j < own - features.left or j > own + features.right:
        return False
    return features.mask[b, h, i, j] and features.bias[b, h, i, j] != -math.inf


@njit(nogil=True)
def dropout_factor(b, h, i, j, features):
    """The factor of a pair's probability: 0 if dropout drops the pair, else 1 / (1 - dropout).

    Random bits: word j % 4 of Philox 4x32-10 (Salmon et al. 2011) with the counter (j // 4, i, h, b).
    """
    if features.threshold == 0:
        return features.keep_factor
    x0, x1, x2, x3 = np.uint64(j // 4), np.uint64(i), np.uint64(h), np.uint64(b)
    k0, k1 = features.seed & _LOW, features.seed >> _HALF
    for _ in range(_ROUNDS):
        product0, product1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1 = (product1 >> _HALF) ^ x1 ^ k0, product1 & _LOW
        x2, x3 = (product0 >> _HALF) ^ x3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    word = (x0, x1, x2, x3)[j % 4]
    return features.keep_factor if word >= np.uint64(features.threshold) else 0.0


@compiled
def scalar_forward(q, k, v, o, lse, sequences, features):
    """Write o = softmax(scale * q @ k.T) @ v and lse, with an online softmax."""
    num_heads, head_dim_v = q.shape[1], v.shape[3]
    group = num_heads // k.shape[1]
    for b in range(len(sequences)):
        batch, first_query, first_key, seqlen_q, seqlen_k, diagonal = sequences[b]
        for h in range(num_heads):
            kv = h // group
            sink = features.sinks[h]
            for i in range(seqlen_q):
                query = first_query + i
                row_max, row_sum = sink, 1.0 if sink != -math.inf else 0.0
                o[batch, h, query, :] = 0
                for j in range(seqlen_k):
                    if not sees(b, h, i, j, diagonal, features):
                        continue
                    page, key = key_place(batch, first_key, b, j, features)
                    score, _ = logit(q[batch, h, query], k[page, kv, key], b, h, i, j, diagonal, features)
                    # A new maximum rescales the sums under the old one.
                    new_max = max(row_max, score)
                    rescale = math.exp(row_max - new_max) if row_sum > 0 else 0.0
                    p = math.exp(score - new_max) if score != -math.inf else 0.0
                    row_sum = row_sum * rescale + p
                    p *= dropout_factor(b, h, i, j, features)
                    for c in range(head_dim_v):
                        o[batch, h, query, c] = o[batch, h, query, c] * rescale + p * v[page, kv, key, c]
                    row_max = new_max
                if row_sum != 0:  # else no key has weight, and o is already 0
                    for c in range(head_dim_v):
                        o[batch, h, query, c] /= row_sum
                lse[batch, h, query] = row_max + math.log(row_sum)


class BackwardInputs(NamedTuple):
    do: Any
    q: Any
    k: Any
    v: Any
    o: Any
    lse: Any


class Gradients(NamedTuple):
    dq: Any
    dk: Any
    dv: Any
    dsinks: Any
    dmask: Any


@compiled
def scalar_backward(inputs, gradients, sequences, features):
    """Add the gradients of sum(do * o) to dq, dk, dv, dsinks and dmask, with p recomputed from lse.

    All gradients must be zero before. dmask: the shape of the masks; a stride of 0 sums along an axis.
    Keys in pages are not supported.
    """
    do, q, k, v, o, lse = inputs
    dq, dk, dv, dsinks, dmask = gradients
    num_heads, head_dim, head_dim_v = q.shape[1], q.shape[3], v.shape[3]
    group = num_heads // k.shape[1]
    for b in range(len(sequences)):
        batch, first_query, first_key, seqlen_q, seqlen_k, diagonal = sequences[b]
        for h in range(num_heads):
            kv = h // group
            for i in range(seqlen_q):
                query = first_query + i
                delta, visible = 0.0, 0
                row_lse = lse[batch, h, query]
                # lse = -inf, or so far below 0 that lse - 1 == lse: it cannot tell probability 1 from 0.
                tells_nothing = row_lse < 0 and lse.dtype.type(row_lse - 1.0) == row_lse
                for c in range(head_dim_v):
                    delta += o[batch, h, query, c] * do[batch, h, query, c]
                for j in range(seqlen_k):
                    if not sees(b, h, i, j, diagonal, features):
                        continue
                    key = first_key + j
                    visible += 1
                    q_row, k_row = q[batch, h, query], k[batch, kv, key]
                    score, capped = logit(q_row, k_row, b, h, i, j, diagonal, features)
                    p = 0.0 if tells_nothing else math.exp(score - row_lse)
                    dp = 0.0
                    for c in range(head_dim_v):
                        dp += do[batch, h, query, c] * v[batch, kv, key, c]
                    # Forward: o += factor * p @ v, so dv += factor * p.T @ do, and dp is times factor too.
                    factor = dropout_factor(b, h, i, j, features)
                    for c in range(head_dim_v):
                        dv[batch, kv, key, c] += factor * p * do[batch, h, query, c]
                    # Softmax: ds = p * (dp - delta). The mask was added to s, so dmask += ds.
                    ds = p * (factor * dp - delta)
                    dmask[b, h, i, j] += ds
                    # s = softcap * tanh(scale * q @ k.T / softcap), so dq += ds @ k and dk += ds.T @ q.
                    ds *= (1 - capped * capped) * features.scale
                    for c in range(head_dim):
                        dq[batch, h, query, c] += ds * k[batch, kv, key, c]
                        dk[batch, kv, key, c] += ds * q[batch, h, query, c]
                # A sink is a key with value 0, so its dp = 0 and its ds = p * (0 - delta).
                if visible and features.sinks[h] != -math.inf:
                    dsinks[h] -= math.exp(features.sinks[h] - row_lse) * delta
