"""flash-attention's functions on batches of sequences of one length."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.flash_attn.arguments import Attention, check_heads, check_tensors
from flashbench.integrations.flash_attn.attend import attend
from flashbench.integrations.flash_attn.probabilities import signed_probabilities
from flashbench.integrations.torch.arrays import ACCUMULATORS

Result: TypeAlias = Tensor | tuple[Tensor, Tensor, Tensor]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    learnable_sink: Tensor | None = None,
) -> Result:
    """`flash_attn.flash_attn_func`, differentiable by q, k, v and learnable_sink.

    Args:
        q: (batch, seqlen_q, heads, head_dim) on the CPU: float16, bfloat16, float32 or float64.
        k, v: (batch, seqlen_k, heads_k, head_dim); heads_k divides heads.
        dropout_p: share of probabilities that become 0. The seed is of PyTorch's generator.
        softmax_scale: None is 1 / sqrt(head_dim).
        causal: query i sees keys up to i + seqlen_k - seqlen_q.
        window_size: (left, right): it sees keys from i + seqlen_k - seqlen_q - left on, and up to right
            further. -1 is no limit.
        softcap: scores become softcap * tanh(scores / softcap); 0 is off. Not with dropout.
        alibi_slopes: (heads,) or (batch, heads): scores get -slope * |i + seqlen_k - seqlen_q - j|.
        deterministic: of no effect, as every result here is.
        return_attn_probs: also return lse and probabilities.
        learnable_sink: (heads,) logits of one more key each, with value 0, as in flash-attention 4.

    Returns:
        o: as q; 0 in a row that sees no key. With return_attn_probs (o, lse, probabilities). lse: (batch,
        heads, seqlen_q), natural log, +inf in a row that sees no key. probabilities: (batch, heads, seqlen_q,
        seqlen_k) with a minus where dropout dropped the pair; empty without dropout.

    Raises:
        AttentionError: an argument breaks a rule.
    """
    given = Attention(dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, learnable_sink)
    check_tensors(4, q, q=q, k=k, v=v)
    check_heads(q, k, v)
    if q.shape[0] != k.shape[0] or q.shape[0] == 0:
        raise AttentionError(f"q and k must be of one batch, 1 at least, not {q.shape[0]} and {k.shape[0]}")
    options = given.options()
    if q.shape[1] == 0 or k.shape[1] == 0:
        o = of_nothing(q, k, v)
        return (o, *lse_of_nothing(q, (q.shape[0], q.shape[2], q.shape[1]))) if return_attn_probs else o
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    o, lse = attend(q, k, v, options, lse=return_attn_probs)
    o = o.transpose(1, 2)
    if lse is None:
        return o
    return o, lse, signed_probabilities(q, k, options) if dropout_p else q.new_empty(0)


def of_nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """o without a query or without a key: zeros, and so are the gradients."""
    connected = sum(x[..., :0].sum() for x in (q, k, v))  # to the graph, whatever the numbers are
    return q.new_zeros(*q.shape[:-1], v.shape[-1]) + connected


def lse_of_nothing(q: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """lse and probabilities of the same."""
    return q.new_full(shape, math.inf, dtype=ACCUMULATORS[q.dtype]), q.new_empty(0)


def flash_attn_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` of kv: (batch, seqlen_k, 2, heads_k, head_dim)."""
    k, v = unpacked("kv", kv, 5, 2)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_func` of qkv: (batch, seqlen, 3, heads, head_dim)."""
    q, k, v = unpacked("qkv", qkv, 5, 3)
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic,
        return_attn_probs,
    )  # fmt: skip


def unpacked(name: str, x: Tensor, dimensions: int, count: int) -> tuple[Tensor, ...]:
    """The `count` tensors that lie side by side along the third axis from the end. Raises AttentionError."""
    check_tensors(dimensions, x, **{name: x})
    if x.shape[-3] != count:
        raise AttentionError(
            f"{name} must have {count} along axis {dimensions - 3}, but has shape {tuple(x.shape)}"
        )
    return tuple(x.unbind(-3))
