"""Exact attention and its gradients. All other interfaces are built on these two functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from flashbench.arguments import prepare
from flashbench.arguments.options import BatchOptions, with_options
from flashbench.engines import Array, AttentionGradients, Forward

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AttentionOutput(NamedTuple):
    """o: q's shape, with head_dim_v as its last axis. lse: (batch, num_heads, seqlen_q), or (batch, seqlen_q)
    in 3-D, or (num_heads, total) when packed.
    """

    o: Array
    lse: Array


@overload
def attention(
    q: Any, k: Any, v: Any, *, return_lse: Literal[False] = False, **options: Unpack[BatchOptions]
) -> Array: ...


@overload
def attention(
    q: Any, k: Any, v: Any, *, return_lse: Literal[True], **options: Unpack[BatchOptions]
) -> AttentionOutput: ...


@with_options(BatchOptions)
def attention(
    q: Any, k: Any, v: Any, *, return_lse: bool = False, **options: Unpack[BatchOptions]
) -> Array | AttentionOutput:
    """softmax(softmax_scale * q k^T) v, exactly, and by default without an array of the scores.

    The default engine follows Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact
    Attention with IO-Awareness" (algorithm 1). An engine that lacks one of the options below refuses it.
    `flashbench engines` lists the options of each engine.

    Args:
        q: (batch, num_heads, seqlen_q, head_dim), or (batch, seqlen_q, head_dim) for one head.
            A NumPy array or any CPU array with `__dlpack__`, of any strides: float64, float32, float16 or
            bfloat16 (ml_dtypes' or another library's). k and v have the same dtype.
        k: (batch, num_kv_heads, seqlen_k, head_dim). num_heads must be a multiple of num_kv_heads:
            num_heads / num_kv_heads neighbouring query heads share a key head.
        v: (batch, num_kv_heads, seqlen_k, head_dim_v). head_dim and head_dim_v: 1 to 256.
        softmax_scale: None is 1 / sqrt(head_dim).
        causal: a query sees only keys up to its own position. Query i has position i, plus an offset from
            causal_alignment.
        causal_alignment: the offset between query and key positions if seqlen_q is not seqlen_k, for
            causal, window and alibi_slopes. "bottom-right" puts the last query at the last key, "top-left"
            the first query at the first key.
        window: (left, right): a query sees left keys before its own position and right keys after it. None
            is no limit. causal makes right 0. Beltagy et al. 2020, "Longformer"; Jiang et al. 2023,
            "Mistral 7B", whose window of w keys is (w - 1, 0).
        softcap: scaled scores s become softcap * tanh(s / softcap). Gemma Team 2024, "Gemma 2".
        alibi_slopes: (num_heads,) or (batch, num_heads): slope * |distance of query and key| is subtracted
            from each score. Press et al. 2022, "Train Short, Test Long"; `flashbench.alibi_slopes` makes
            their slopes.
        mask: an array that broadcasts to (batch, num_heads, seqlen_q, seqlen_k), or to
            (batch, seqlen_q, seqlen_k) in 3-D. It is not copied. bool: True where a query may attend.
            Floats: added to the scores (-inf hides). A `BlockMask`: hidden blocks cost nothing. Floats have
            q's dtype. With float16 and bfloat16 they may be float32, which is not copied either; in 16 bits
            they are converted in each call.
        sinks: (num_heads,), floats as of a mask: a logit that is added to the softmax's denominator and has
            no value. Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", as in
            gpt-oss.
        key_lengths: (batch,) whole numbers, 0 to seqlen_k: the number of valid keys of each sequence.
            "bottom-right" then means each sequence's own last key.
        block_table: (batch, pages) whole numbers; needs key_lengths. k is then
            (pages, num_kv_heads, page_size, head_dim), and v likewise. Key j of sequence b is row
            j % page_size of page block_table[b, j // page_size]. Kwon et al. 2023, "Efficient Memory
            Management for Large Language Model Serving with PagedAttention"; see `PagedKVCache`.
        dropout: the share of probabilities set to zero, from 0 to below 1. The others are multiplied by
            1 / (1 - dropout). Srivastava et al. 2014.
        dropout_seed: whole number below 2**64. Philox 4x32-10 (Salmon et al. 2011, "Parallel Random Numbers:
            As Easy as 1, 2, 3") of seed and place decides which probabilities are dropped: the same ones for
            every engine, number of threads and block size. Use a new seed for each call, and the same seed
            for its backward.
        engine: "flash", "standard", "numpy", "torch-flash" or one that an installed package adds.
        block_q, block_k: tile sizes, for engines that have them. None: the engine chooses. "flash" uses what
            `flashbench tune` found on this CPU, if it ran before this process began. Results differ only in
            rounding.
        num_threads: None is every core that this process may use.
        use_simd: False selects scalar loops, in engines that have both.
        return_lse: also return lse, the logarithm of each row's softmax denominator, with the sink and before
            dropout. `attention_backward` needs it. Some engines do not give it.

    Features apply in this order: softcap, alibi_slopes, float mask, hidden keys, softmax with sinks, dropout.

    Returns:
        o: (batch, num_heads, seqlen_q, head_dim_v), or (batch, seqlen_q, head_dim_v) in 3-D, a NumPy array of
        q's dtype: bfloat16 is that of ml_dtypes. With return_lse: AttentionOutput(o, lse), where lse is
        float32 with float16 and bfloat16, else of q's dtype.

        A row that sees no key has o = 0 and lse = -inf (or the sink). A score of -inf has weight 0, whatever
        its cause. A row with only such scores is like a row that sees no key. A NaN or a score of +inf makes
        o and lse NaN in every row that sees it, even if dropout drops it, because the softmax computes
        inf - inf. It never reaches a row that does not see it. Both hold for "flash" and "standard"; other
        engines may differ.

    Raises:
        AttentionError: an argument breaks a rule.
        EngineError: the engine's library is not installed, or ml_dtypes for a result in bfloat16.
        UnsupportedError: the engine cannot run this problem, or return_lse is set and it gives no lse.

    >>> import numpy as np
    >>> q = k = v = np.eye(4)[None]
    >>> attention(q, k, v, causal=True, engine="numpy")[0, 0]
    array([1., 0., 0., 0.])
    """
    call = prepare("fwd", q, k, v, **options)
    forward = call.forward()
    if return_lse:
        return AttentionOutput(call.give(forward.o), call.give_lse(forward))
    return call.give(forward.o)


@with_options(BatchOptions)
def attention_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    *,
    return_dmask: bool = False,
    **options: Unpack[BatchOptions],
) -> AttentionGradients:
    """Gradients of sum(do * attention(q, k, v)) with respect to q, k and v, the sinks and the mask.

    The default engine recomputes the scores tile by tile from lse: Dao et al. 2022, algorithm 4.

    Args:
        do: gradient of the loss by o, in o's shape.
        q, k, v: the arguments of `attention`.
        o, lse: what `attention(..., return_lse=True)` returned for them with the same options.
        return_dmask: also return the gradient by the mask, which must be a float mask.
        **options: softmax_scale, causal, causal_alignment, window, softcap, alibi_slopes, mask, sinks,
            key_lengths, block_table, dropout, dropout_seed, engine, block_q, block_k, num_threads, use_simd:
            as in `attention`. Options that change the result must be the same as there. The engine may be
            another.

    Returns:
        AttentionGradients, which unpacks into dq, dk and dv in the shapes and dtype of q, k and v. dk and dv
        are sums over the query heads that share a key head. Its `dsinks` is (num_heads,). Its `dmask` has the
        mask's own shape: it is summed along broadcast axes. Both have lse's dtype, and are None if there is
        none. Rows that see no key have zero gradients, and so have keys beyond key_lengths.

    Raises:
        AttentionError: as `attention`.
        EngineError: as `attention`.
        UnsupportedError: as `attention`, or the engine cannot compute dmask. Keys in pages (block_table) are
            only for reading: no engine of this package has their gradients.

    >>> import numpy as np
    >>> q = k = v = np.eye(4)[None]
    >>> o, lse = attention(q, k, v, causal=True, engine="numpy", return_lse=True)
    >>> attention_backward(np.ones_like(o), q, k, v, o, lse, causal=True, engine="numpy").dv[0, 3, 0].round(6)
    np.float64(0.354661)
    """
    call = prepare("bwd", q, k, v, **options)
    do = call.take("do", do, "o")
    forward = Forward(call.take("o", o, "o"), call.take("lse", lse, "lse"))
    return call.give_gradients(call.backward(do, forward, return_dmask=return_dmask))
