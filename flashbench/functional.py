"""Exact attention and its gradients: the two functions that everything else is built on."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

from flashbench.arguments import prepare
from flashbench.engines import Array, AttentionGradients, Forward
from flashbench.problem import CausalAlignment


class AttentionOutput(NamedTuple):
    """o in q's shape with v's head_dim; lse: (batch, num_heads, seqlen_q), or (batch, seqlen_q) in 3-D."""

    o: Array
    lse: Array


@overload
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
    num_threads: int | None = None,
    use_simd: bool = True,
    return_lse: Literal[False] = False,
) -> Array: ...


@overload
def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
    num_threads: int | None = None,
    use_simd: bool = True,
    return_lse: Literal[True],
) -> AttentionOutput: ...


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
    num_threads: int | None = None,
    use_simd: bool = True,
    return_lse: bool = False,
) -> Array | AttentionOutput:
    """softmax(softmax_scale * q k^T) v, exactly, and by default without an array of the scores.

    The default engine follows Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact
    Attention with IO-Awareness" (algorithm 1).

    Args:
        q: (batch, num_heads, seqlen_q, head_dim), or (batch, seqlen_q, head_dim) for one head.
            A NumPy array or any CPU array with `__dlpack__`, float64 or float32, of any strides.
        k: (batch, num_kv_heads, seqlen_k, head_dim). num_heads must be a multiple of num_kv_heads:
            num_heads / num_kv_heads neighbouring query heads share a key head.
        v: (batch, num_kv_heads, seqlen_k, head_dim_v). head_dim and head_dim_v: 1 to 256.
        softmax_scale: None is 1 / sqrt(head_dim).
        causal: a query sees only keys up to its own position.
        causal_alignment: where that position is when seqlen_q is not seqlen_k: "bottom-right" lets the
            last query see all keys, "top-left" lets the first query see the first key.
        engine: "flash", "standard", "numpy", "torch-flash" or one that an installed package adds.
        block_q, block_k: tile sizes, for engines that have them. None: the engine chooses, "flash"
            from what `flashbench tune` found on this CPU, if it ran before this process began. The
            result is the same but for rounding.
        num_threads: None is every core that this process may use.
        use_simd: False selects scalar loops in the engines that have both.
        return_lse: also return the logarithm of each row's softmax denominator, which
            `attention_backward` needs. Some engines do not give it.

    Returns:
        o: (batch, num_heads, seqlen_q, head_dim_v), or (batch, seqlen_q, head_dim_v) in 3-D; with
        return_lse, AttentionOutput(o, lse). A row that sees no key has o = 0 and lse = -inf.

    Raises:
        AttentionError: an argument breaks a rule. EngineError: the engine's library is not installed.
        UnsupportedError: the engine cannot run this problem, or gives no lse where that is asked for.

    >>> import numpy as np
    >>> q = k = v = np.eye(4)[None]
    >>> attention(q, k, v, causal=True, engine="numpy")[0, 0]
    array([1., 0., 0., 0.])
    """
    call = prepare(
        "fwd",
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        causal=causal,
        causal_alignment=causal_alignment,
        engine=engine,
        block_q=block_q,
        block_k=block_k,
        num_threads=num_threads,
        use_simd=use_simd,
    )
    forward = call.engine.forward(call.problem, call.settings, call.q, call.k, call.v)
    if return_lse:
        return AttentionOutput(call.give(forward.o), call.give_lse(forward))
    return call.give(forward.o)


def attention_backward(
    do: Any,
    q: Any,
    k: Any,
    v: Any,
    o: Any,
    lse: Any,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    causal_alignment: CausalAlignment = "bottom-right",
    engine: str = "flash",
    block_q: int | None = None,
    block_k: int | None = None,
    num_threads: int | None = None,
    use_simd: bool = True,
) -> AttentionGradients:
    """Gradients of sum(do * attention(q, k, v)) with respect to q, k and v.

    The default engine recomputes the scores tile by tile from lse: Dao et al. 2022, algorithm 4.

    Args:
        do: gradient of the loss by o, in o's shape.
        q, k, v: as they were given to `attention`.
        o, lse: what `attention(..., return_lse=True)` returned for them with the same options.
        softmax_scale, causal, causal_alignment, engine, block_q, block_k, num_threads, use_simd: as in
            `attention`. The engine may be another than the forward's.

    Returns:
        AttentionGradients(dq, dk, dv) in the shapes and dtype of q, k and v; query heads that share a
        key head are added up in dk and dv. Rows that see no key have zero gradients.

    Raises:
        As `attention`.

    >>> import numpy as np
    >>> q = k = v = np.eye(4)[None]
    >>> o, lse = attention(q, k, v, causal=True, engine="numpy", return_lse=True)
    >>> attention_backward(np.ones_like(o), q, k, v, o, lse, causal=True, engine="numpy").dv[0, 3, 0].round(6)
    np.float64(0.354661)
    """
    call = prepare(
        "bwd",
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        causal=causal,
        causal_alignment=causal_alignment,
        engine=engine,
        block_q=block_q,
        block_k=block_k,
        num_threads=num_threads,
        use_simd=use_simd,
    )
    do = call.take("do", do, "o")
    forward = Forward(call.take("o", o, "o"), call.take("lse", lse, "lse"))
    gradients = call.engine.backward(call.problem, call.settings, do, call.q, call.k, call.v, forward)
    return AttentionGradients(*map(call.give, gradients))
