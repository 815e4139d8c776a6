"""The readable reference: flash attention as scalar loops, one query and one key at a time.

What `use_simd=False` runs. Each loop nest is the textbook's; the SIMD kernels compute the same sums
over tiles. Arrays: q, o, do (batch, num_heads, seqlen_q, ...), k, v (batch, num_kv_heads, seqlen_k, ...).
"""

from __future__ import annotations

import math
from typing import Any

from flashbench.kernels.compiled import compiled
from flashbench.kernels.visibility import keys_seen


@compiled
def scalar_forward(
    q: Any, k: Any, v: Any, o: Any, lse: Any, softmax_scale: Any, causal: Any, diagonal: Any
) -> None:
    """o = softmax(softmax_scale * q @ k.T) @ v with the softmax computed online."""
    batch, num_heads, seqlen_q, head_dim = q.shape
    group = num_heads // k.shape[1]
    for b in range(batch):
        for h in range(num_heads):
            kv = h // group
            for i in range(seqlen_q):
                row_max, row_sum = -math.inf, 0.0
                o[b, h, i, :] = 0
                for j in range(keys_seen(i, k.shape[2], causal, diagonal)):
                    score = 0.0
                    for c in range(head_dim):
                        score += q[b, h, i, c] * k[b, kv, j, c]
                    score *= softmax_scale
                    # A score beyond the maximum so far rescales what has been summed under it.
                    new_max = max(row_max, score)
                    rescale = math.exp(row_max - new_max) if row_sum > 0 else 0.0
                    p = math.exp(score - new_max) if score != -math.inf else 0.0
                    row_sum = row_sum * rescale + p
                    for c in range(v.shape[3]):
                        o[b, h, i, c] = o[b, h, i, c] * rescale + p * v[b, kv, j, c]
                    row_max = new_max
                if row_sum != 0:
                    for c in range(v.shape[3]):
                        o[b, h, i, c] /= row_sum
                lse[b, h, i] = row_max + math.log(row_sum)


@compiled
def scalar_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    softmax_scale: Any,
    causal: Any,
    diagonal: Any,
) -> None:
    """dq, dk, dv of sum(do * o), with p recomputed from lse."""
    batch, num_heads, seqlen_q, head_dim = q.shape
    head_dim_v = v.shape[3]
    group = num_heads // k.shape[1]
    dq[:] = 0
    dk[:] = 0
    dv[:] = 0
    for b in range(batch):
        for h in range(num_heads):
            kv = h // group
            for i in range(seqlen_q):
                delta = 0.0
                for c in range(head_dim_v):
                    delta += o[b, h, i, c] * do[b, h, i, c]
                for j in range(keys_seen(i, k.shape[2], causal, diagonal)):
                    score, dp = 0.0, 0.0
                    for c in range(head_dim):
                        score += q[b, h, i, c] * k[b, kv, j, c]
                    for c in range(head_dim_v):
                        dp += do[b, h, i, c] * v[b, kv, j, c]
                    p = math.exp(score * softmax_scale - lse[b, h, i])
                    # Forward: o += p @ v, so dv += p.T @ do. Softmax: ds = p * (dp - delta).
                    ds = p * (dp - delta) * softmax_scale
                    for c in range(head_dim_v):
                        dv[b, kv, j, c] += p * do[b, h, i, c]
                    # Forward: s = scale * q @ k.T, so dq += ds @ k and dk += ds.T @ q.
                    for c in range(head_dim):
                        dq[b, h, i, c] += ds * k[b, kv, j, c]
                        dk[b, kv, j, c] += ds * q[b, h, i, c]
