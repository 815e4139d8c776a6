"""flash-attention's functions on sequences of different lengths that lie end to end."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flashbench.errors import AttentionError
from flashbench.integrations.flash_attn.arguments import (
    Attention,
    check_heads,
    check_pages,
    check_tensors,
    check_whole,
    pages_of,
)
from flashbench.integrations.flash_attn.attend import attend
from flashbench.integrations.flash_attn.padded import Result, lse_of_nothing, of_nothing, unpacked
from flashbench.integrations.flash_attn.probabilities import signed_probabilities
from flashbench.integrations.torch.options import Options


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    learnable_sink: Tensor | None = None,
) -> Result:
    """`flash_attn.flash_attn_varlen_func`, differentiable by q, k, v and learnable_sink.

    Args:
        q: (total_q, heads, head_dim): the queries of all sequences, one sequence after the other.
        k, v: (total_k, heads_k, head_dim); with block_table (pages, page_size, heads_k, head_dim).
        cu_seqlens_q, cu_seqlens_k: (sequences + 1,) of int32: the first row of each sequence, and the end of
            the last.
        max_seqlen_q, max_seqlen_k: the longest sequences' lengths.
        block_table: (sequences, pages of the longest) of int32: the pages of each sequence. They are copied.

    The other arguments and errors are those of `flash_attn_func`.

    Returns:
        o: as q. With return_attn_probs (o, lse, probabilities): lse (heads, total_q), probabilities
        (sequences, heads, max_seqlen_q, max_seqlen_k), 0 beyond a sequence's length.
    """
    given = Attention(dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, learnable_sink)
    check_tensors(3, q, q=q)
    check_tensors(3 if block_table is None else 4, q, k=k, v=v)
    check_heads(q, k, v)
    check_whole("cu_seqlens_q", cu_seqlens_q, ("sequences + 1",))
    sequences = cu_seqlens_q.shape[0] - 1
    check_whole("cu_seqlens_k", cu_seqlens_k, (sequences + 1,))
    if block_table is not None:
        check_whole("block_table", block_table, (sequences, "pages"))
        check_pages(k)
        k, v = (_end_to_end(x, cu_seqlens_k, block_table) for x in (k, v))
    options = given.options()._replace(cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k)
    if not torch.compiler.is_compiling():  # these need the numbers
        _check_longest("max_seqlen_q", max_seqlen_q, cu_seqlens_q)
        _check_longest("max_seqlen_k", max_seqlen_k, cu_seqlens_k)
        if q.shape[0] == 0 or k.shape[0] == 0:
            o = of_nothing(q, k, v)
            return (o, *lse_of_nothing(q, (q.shape[1], q.shape[0]))) if return_attn_probs else o
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    o, lse = attend(q, k, v, options, lse=return_attn_probs)
    o = o[0].transpose(0, 1)
    if lse is None:
        return o
    probabilities = q.new_empty(0)
    if dropout_p:
        probabilities = q.new_zeros(sequences, q.shape[1], max_seqlen_q, max_seqlen_k)
        _put_probabilities(probabilities, q, k, options)
    return o, lse[0], probabilities


def _check_longest(name: str, most: int, bounds: Tensor) -> None:
    """Refuse a maximum that would cut a sequence off. Raises AttentionError."""
    longest = int(bounds.diff().max())
    if longest > int(most):
        raise AttentionError(
            f"{name} must be the longest sequence's length, {longest} at least, not {int(most)}"
        )


def _end_to_end(pool: Tensor, bounds: Tensor, block_table: Tensor) -> Tensor:
    """The sequences' rows of a pool of pages, one sequence after the other: (total, heads, head_dim)."""
    size = pool.shape[1]
    lengths = bounds.diff().long()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device="cpu"), lengths)
    place = torch.arange(len(sequence), device="cpu") - bounds[:-1].long()[sequence]
    return pool[pages_of(block_table, sequence, place // size, len(pool)), place % size]


def _put_probabilities(target: Tensor, q: Tensor, k: Tensor, options: Options) -> None:
    """Fill target[sequence, head, query, key], as `signed_probabilities` of each sequence by itself."""
    bounds = (x.tolist() for x in (options.cu_seqlens_q, options.cu_seqlens_k) if x is not None)
    plain = options._replace(cu_seqlens_q=None, cu_seqlens_k=None)
    slopes = options.alibi_slopes
    for b, (rows, keys) in enumerate(zip(*map(pairwise, bounds), strict=True)):
        own_q, own_k = q[:, :, slice(*rows)], k[:, :, slice(*keys)]
        if own_q.numel() == 0 or own_k.numel() == 0:
            continue
        own = plain if slopes is None or slopes.dim() == 1 else plain._replace(alibi_slopes=slopes[b])
        found = signed_probabilities(own_q, own_k, own, first_sequence=b)
        target[b, :, : found.shape[2], : found.shape[3]] = found[0]


def flash_attn_varlen_kvpacked_func(
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` of kv: (total_k, 2, heads_k, head_dim)."""
    k, v = unpacked("kv", kv, 4, 2)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal,
        window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Result:
    """`flash_attn_varlen_func` of qkv: (total, 3, heads, head_dim)."""
    q, k, v = unpacked("qkv", qkv, 4, 3)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal,
        window_size, softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip
