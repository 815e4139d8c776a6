"""Exact attention and its gradients: the two functions that everything else is built on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from flashbench.arguments import prepare
from flashbench.arguments.options import BatchOptions, with_options
from flashbench.engines import Array, AttentionGradients, Forward

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AttentionOutput(NamedTuple):
    """o in q's shape with v's head_dim; lse: (batch, num_heads, seqlen_q), or (batch, seqlen_q) in 3-D,
    or (num_heads, total) when packed.
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
    Attention with IO-Awareness" (algorithm 1). Not every engine has every option below; one that lacks
    an option refuses it, and `flashbench engines` lists what each has.

    Args:
        q: (batch, num_heads, seqlen_q, head_dim), or (batch, seqlen_q, head_dim) for one head.
            A NumPy array or any CPU array with `__dlpack__`, float64 or float32, of any strides.
        k: (batch, num_kv_heads, seqlen_k, head_dim). num_heads must be a multiple of num_kv_heads:
            num_heads / num_kv_heads neighbouring query heads share a key head.
        v: (batch, num_kv_heads, seqlen_k, head_dim_v). head_dim and head_dim_v: 1 to 256.
        softmax_scale: None is 1 / sqrt(head_dim).
        causal: a query sees only keys up to its own position, which is i for query i, plus what
            causal_alignment adds.
        causal_alignment: how positions of queries and keys meet where seqlen_q is not seqlen_k, for
            causal, window and alibi_slopes: "bottom-right" puts the last query at the last key, "top-left"
            the first query at the first key.
        window: (left, right): a query sees that many keys before and after its own position, None being
            no limit; right is 0 when causal. Beltagy et al. 2020, "Longformer"; Jiang et al. 2023,
            "Mistral 7B", whose window of w keys is (w - 1, 0).
        softcap: scaled scores s become softcap * tanh(s / softcap). Gemma Team 2024, "Gemma 2".
        alibi_slopes: (num_heads,) or (batch, num_heads): slope * |distance of query and key| is taken from
            each score. Press et al. 2022, "Train Short, Test Long"; `flashbench.alibi_slopes` gives theirs.
        mask: what broadcasts to (batch, num_heads, seqlen_q, seqlen_k), or to (batch, seqlen_q, seqlen_k)
            in 3-D, and is not copied: bool, True where a query may attend; or of q's dtype, added to the
            scores (-inf hides); or a `BlockMask`, whose hidden blocks cost nothing.
        sinks: (num_heads,) of q's dtype: a logit that joins the softmax's denominator and has no value.
            Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks", as gpt-oss has it.
        key_lengths: (batch,) whole numbers, 0 to seqlen_k: keys beyond them do not count, and positions at
            the bottom right are from each sequence's own end.
        block_table: (batch, pages) whole numbers, with key_lengths. Key j of a sequence is then row
            j % page_size of the page that the table names at j // page_size, in k of
            (pages, num_kv_heads, page_size, head_dim), and v likewise. Kwon et al. 2023, "Efficient Memory
            Management for Large Language Model Serving with PagedAttention"; see `PagedKVCache`.
        dropout: the share of probabilities that become zero, from 0 to below 1; the others grow by
            1 / (1 - dropout). Srivastava et al. 2014.
        dropout_seed: whole number below 2**64, which decides which they are, by Philox 4x32-10 of their
            place (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): the same for every
            engine, number of threads and block size. To be another for each call, and the same for its
            backward.
        engine: "flash", "standard", "numpy", "torch-flash" or one that an installed package adds.
        block_q, block_k: tile sizes, for engines that have them. None: the engine chooses, "flash"
            from what `flashbench tune` found on this CPU, if it ran before this process began. The
            result is the same but for rounding.
        num_threads: None is every core that this process may use.
        use_simd: False selects scalar loops in the engines that have both.
        return_lse: also return the logarithm of each row's softmax denominator, sink included and before
            dropout, which `attention_backward` needs. Some engines do not give it.

    The order is the one above: softcap, alibi_slopes, a mask of floats, what hides keys, the softmax with
    its sinks, dropout.

    Returns:
        o: (batch, num_heads, seqlen_q, head_dim_v), or (batch, seqlen_q, head_dim_v) in 3-D; with
        return_lse, AttentionOutput(o, lse). A row that sees no key has o = 0 and lse = -inf, or the sink.
        A score of -inf has weight 0, whatever made it so, and a row all of whose scores are -inf is as one
        that sees no key. A NaN or a score of +inf makes the rows that see it NaN, o and lse, as inf - inf
        does in the softmax, and no less where it is dropped; it reaches no other row, whatever hides it
        ("flash" and "standard"; other engines as they please).

    Raises:
        AttentionError: an argument breaks a rule.
        EngineError: the engine's library is not installed.
        UnsupportedError: the engine cannot run this problem, or gives no lse where that is asked for.

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
        q, k, v: as they were given to `attention`.
        o, lse: what `attention(..., return_lse=True)` returned for them with the same options.
        return_dmask: also return the gradient by the mask, which must be one of floats.
        **options: softmax_scale, causal, causal_alignment, window, softcap, alibi_slopes, mask, sinks,
            key_lengths, block_table, dropout, dropout_seed, engine, block_q, block_k, num_threads, use_simd:
            as in `attention`, and those that decide what is computed the same as there. The engine may be
            another than the forward's.

    Returns:
        AttentionGradients, which unpacks into dq, dk and dv in the shapes and dtype of q, k and v, query
        heads that share a key head being added up in dk and dv; its `dsinks` is (num_heads,), its `dmask`
        in the mask's own shape, added up along what was broadcast, both None where there is none. Rows that
        see no key have zero gradients, and so have keys beyond key_lengths.

    Raises:
        AttentionError: as `attention`.
        EngineError: as `attention`.
        UnsupportedError: also when return_dmask is more than the engine can. Keys in pages, which a
            block_table finds, are there to be read: no engine of this package has their gradients.

    >>> import numpy as np
    >>> q = k = v = np.eye(4)[None]
    >>> o, lse = attention(q, k, v, causal=True, engine="numpy", return_lse=True)
    >>> attention_backward(np.ones_like(o), q, k, v, o, lse, causal=True, engine="numpy").dv[0, 3, 0].round(6)
    np.float64(0.354661)
    """
    call = prepare("bwd", q, k, v, **options)
    do = call.take("do", do, "o")
    forward = Forward(call.take("o", o, "o"), call.take("lse", lse, "lse"))
    return call.backward(do, forward, return_dmask=return_dmask)
