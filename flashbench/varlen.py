"""Attention over sequences of different lengths that lie end to end, without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from flashbench.arguments import prepare
from flashbench.arguments.options import Options, with_options
from flashbench.engines import Array, AttentionGradients, Forward
from flashbench.functional import AttentionOutput

if TYPE_CHECKING:
    from typing_extensions import Unpack


@overload
def attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    return_lse: Literal[False] = False,
    **options: Unpack[Options],
) -> Array: ...


@overload
def attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    return_lse: Literal[True],
    **options: Unpack[Options],
) -> AttentionOutput: ...


@with_options(Options)
def attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    return_lse: bool = False,
    **options: Unpack[Options],
) -> Array | AttentionOutput:
    """`attention` of each sequence by itself, for all sequences in one call.

    Args:
        q: (total_q, num_heads, head_dim): the queries of all sequences, one sequence after the other.
        k: (total_k, num_kv_heads, head_dim).
        v: (total_k, num_kv_heads, head_dim_v).
        cu_seqlens_q, cu_seqlens_k: (sequences + 1,) whole numbers, an array or a list: the first row of each
            sequence, and the end of the last. They ascend from 0 to total_q and to total_k. A sequence may
            be empty.
        mask, alibi_slopes: as in `attention`, for batch = sequences, seqlen_q and seqlen_k = the longest.
            Rows and columns of a mask count from each sequence's own first query and key.
        return_lse: as in `attention`.
        **options: softmax_scale, causal, causal_alignment, window, softcap, sinks, dropout, dropout_seed,
            engine, block_q, block_k, num_threads, use_simd: as in `attention`.

    Returns:
        o: (total_q, num_heads, head_dim_v). With return_lse: AttentionOutput(o, lse), where lse is
        (num_heads, total_q).

    Raises:
        AttentionError, EngineError, UnsupportedError: as `attention`.
    """
    call = prepare("fwd", q, k, v, cu_seqlens=(cu_seqlens_q, cu_seqlens_k), **options)
    forward = call.forward()
    if return_lse:
        return AttentionOutput(call.give(forward.o), call.give_lse(forward))
    return call.give(forward.o)


@with_options(Options)
def attention_varlen_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    return_dmask: bool = False,
    **options: Unpack[Options],
) -> AttentionGradients:
    """Gradients of sum(do * attention_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k)).

    Args:
        do: gradient of the loss by o, in o's shape.
        q, k, v, cu_seqlens_q, cu_seqlens_k: the arguments of `attention_varlen`.
        o, lse: what `attention_varlen(..., return_lse=True)` returned for them with the same options.
        return_dmask: also return the gradient by the mask, which must be a float mask.
        **options: softmax_scale, causal, causal_alignment, window, softcap, alibi_slopes, mask, sinks,
            dropout, dropout_seed, engine, block_q, block_k, num_threads, use_simd: as in `attention_varlen`.

    Returns:
        AttentionGradients: dq, dk and dv in the shapes and dtype of q, k and v; `dsinks` and `dmask` as from
        `attention_backward`.

    Raises:
        AttentionError, EngineError, UnsupportedError: as `attention_backward`.
    """
    call = prepare("bwd", q, k, v, cu_seqlens=(cu_seqlens_q, cu_seqlens_k), **options)
    do = call.take("do", do, "o")
    forward = Forward(call.take("o", o, "o"), call.take("lse", lse, "lse"))
    return call.give_gradients(call.backward(do, forward, return_dmask=return_dmask))
