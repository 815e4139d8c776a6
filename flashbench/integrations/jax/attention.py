"""`dot_product_attention` with the signature and meaning of JAX's, and gradients by recomputation."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from flashbench.errors import AttentionError
from flashbench.integrations.jax import host
from flashbench.integrations.jax.handlers import operation
from flashbench.problem import MAX_HEAD_DIM

_FORWARD = operation("flashbench_attention", host.forward)
_BACKWARD = operation("flashbench_attention_backward", host.backward)
_DTYPES = ("bfloat16", "float16", "float32", "float64")


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla", "cudnn"] | None = None,
    return_residual: bool = False,
) -> Array | tuple[Array, Array]:
    """`jax.nn.dot_product_attention`, computed by flashbench on CPUs: memory is linear in the length.

    It works under `jax.jit`, `jax.vmap` and reverse-mode differentiation by query, key, value and bias.

    Args:
        query: (batch, queries, heads, head_dim), or without batch; float32, float64, bfloat16 or float16.
        key, value: (batch, keys, heads_k, head_dim); heads_k divides heads.
        bias: added to the scores; broadcasts to (batch, heads, queries, keys).
        mask: True = may attend; broadcasts likewise.
        scale: None is 1 / sqrt(head_dim).
        is_causal: query i sees keys up to i.
        query_seq_lengths, key_value_seq_lengths: (batch,) of int32: further queries have o = 0, further keys
            are hidden.
        local_window_size: (left, right), or one number for both: query i sees keys i - left to i + right.
        implementation: None: flashbench. Another name goes to JAX's own function.
        return_residual: also return lse.

    Returns:
        o: as query. With return_residual (o, lse): lse (batch, queries, heads), natural log, in key's dtype.
        A row from which a mask, lengths or a window hide all keys has the mean of all values, as in JAX. A
        row whose bias is -inf throughout has 0, where JAX has NaN.

    Raises:
        AttentionError: an argument breaks a rule.
    """
    if implementation is not None:
        return jax.nn.dot_product_attention(
            query, key, value, bias, mask, scale=scale, is_causal=is_causal,
            query_seq_lengths=query_seq_lengths, key_value_seq_lengths=key_value_seq_lengths,
            local_window_size=local_window_size, implementation=implementation,
            return_residual=return_residual,
        )  # fmt: skip
    shape = jnp.shape(query)
    q, k, v = map(_in_four_dimensions, (query, key, value))
    bias, mask = (None if x is None else _in_four_dimensions(x) for x in (bias, mask))
    rows, keys = (None if x is None else jnp.asarray(x) for x in (query_seq_lengths, key_value_seq_lengths))
    _check(q, k, v, bias, mask, rows, keys)
    window = local_window_size
    if isinstance(window, int):
        window = window, window
    if window is not None and min(window) < 0:
        raise AttentionError(f"local_window_size must be at least 0, not {local_window_size}")
    if not isinstance(scale, (int, float, type(None))):  # an array, which may be traced: a part of q
        q, scale = (q.astype(jnp.promote_types(q.dtype, jnp.float32)) * scale).astype(q.dtype), 1.0
    wide = jnp.promote_types(q.dtype, jnp.float32)
    added = _added(bias, mask, wide)
    static = _Static(
        scale=1 / math.sqrt(q.shape[3]) if scale is None else float(scale),
        causal=bool(is_causal),
        window=None if window is None else (int(window[0]), int(window[1])),
    )
    o, lse = _attention(static, q, k, v, added, None if keys is None else keys.clip(0, k.shape[1]))
    if not (mask is None and keys is None and window is None):
        mean = jnp.repeat(v.astype(wide).mean(1, keepdims=True), q.shape[2] // k.shape[2], 2).astype(v.dtype)
        o = jnp.where((lse == -jnp.inf)[..., None], mean, o)
    if rows is not None:
        is_query = jnp.arange(q.shape[1])[None, :, None] < rows[:, None, None]
        o, lse = jnp.where(is_query[..., None], o, 0), jnp.where(is_query, lse, -jnp.inf)
    if not return_residual:
        return o.reshape(shape)
    # JAX hides a pair by a score that is large and negative, but finite.
    lowest = -0.7 * min(float(jnp.finfo(wide).max), float(np.finfo(np.float32).max))
    residual = jnp.where(lse == -jnp.inf, jnp.asarray(lowest, wide), lse)
    return o.reshape(shape), lax.stop_gradient(residual.astype(k.dtype)).reshape(shape[:-1])


def _in_four_dimensions(x: ArrayLike) -> Array:
    x = jnp.asarray(x)
    return jnp.expand_dims(x, tuple(range(4 - x.ndim)))


def _check(
    q: Array,
    k: Array,
    v: Array,
    bias: Array | None,
    mask: Array | None,
    rows: Array | None,
    keys: Array | None,
) -> None:
    """Refuse what JAX refuses, and dtypes that flashbench does not compute in. Raises AttentionError."""
    for name, given in (("query", q), ("key", k), ("value", v)):
        if given.ndim != 4 or given.size == 0:
            rule = "must be (batch, length, heads, head_dim), or without batch, and not empty"
            raise AttentionError(f"{name} {rule}; it has shape {given.shape}")
        if given.dtype.name not in _DTYPES or given.dtype != q.dtype:
            raise AttentionError(f"{name} must be of {', '.join(_DTYPES)}, as query is, not {given.dtype}")
    batch, seqlen_q, heads, head_dim = q.shape
    if head_dim > MAX_HEAD_DIM:
        raise AttentionError(f"head_dim must be at most {MAX_HEAD_DIM}, not {head_dim}")
    if k.shape[0] != batch or k.shape[3] != head_dim:
        raise AttentionError(
            f"key must have query's batch and head_dim, but has shape {k.shape} for {q.shape}"
        )
    if v.shape != k.shape:
        raise AttentionError(f"value must have key's shape {k.shape}, not {v.shape}")
    if heads % k.shape[2]:
        raise AttentionError(f"the heads of key ({k.shape[2]}) must divide those of query ({heads})")
    full = batch, heads, seqlen_q, k.shape[1]
    for name, x in (("bias", bias), ("mask", mask)):
        if x is not None and (
            x.ndim != 4 or any(n not in (1, m) for n, m in zip(x.shape, full, strict=True))
        ):
            raise AttentionError(
                f"{name} must broadcast to (batch, heads, queries, keys) = {full}, not {x.shape}"
            )
    if mask is not None and mask.dtype != bool:
        raise AttentionError(f"mask must be of bool, not {mask.dtype}; numbers to be added are a bias")
    for name, x in (("query_seq_lengths", rows), ("key_value_seq_lengths", keys)):
        if x is not None and (x.shape != (batch,) or x.dtype != np.int32):
            raise AttentionError(f"{name} must be (batch,) = ({batch},) of int32, not {x.shape} of {x.dtype}")


def _added(bias: Array | None, mask: Array | None, dtype: Any) -> Array | None:
    """Bias and mask as one array: of bool, or numbers that are added to the scores."""
    if bias is None:
        return mask
    bias = bias.astype(dtype)
    return bias if mask is None else jnp.where(mask, bias, -jnp.inf)


class _Static(NamedTuple):
    """What a compiled call knows."""

    scale: float
    causal: bool
    window: tuple[int, int] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    static: _Static, q: Array, k: Array, v: Array, mask: Array | None, keys: Array | None
) -> tuple[Array, Array]:
    """o (batch, queries, heads, head_dim) and lse (batch, queries, heads), -inf without a key."""
    o, lse = _computed(static, q, k, v, mask, keys)
    return o, lse.swapaxes(1, 2)


def _computed(
    static: _Static, q: Array, k: Array, v: Array, mask: Array | None, keys: Array | None
) -> tuple[Array, Array]:
    """o and lse (batch, heads, queries)."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    lse = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1]), wide)
    results = (jax.ShapeDtypeStruct(q.shape, q.dtype), lse)
    options = _options(static, mask, keys)
    o, found = _FORWARD(results, _given(q, k, v, mask, keys), options.text())
    return o, found


def _forward(static: _Static, *arrays: Any) -> tuple[tuple[Array, Array], Any]:
    o, lse = _computed(static, *arrays)
    return (o, lse.swapaxes(1, 2)), (*arrays, o, lse)


def _backward(static: _Static, saved: Any, gradients: tuple[Array, Array]) -> tuple[Array | None, ...]:
    q, k, v, mask, keys, o, lse = saved
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)]
    options = _options(static, mask, keys)
    if options.mask_gradient:
        results.append(jax.ShapeDtypeStruct(mask.shape, mask.dtype))
    arguments = *_given(q, k, v, mask, keys), gradients[0], o, lse
    dq, dk, dv, *dmask = _BACKWARD(results, arguments, options.text())
    return dq, dk, dv, dmask[0] if dmask else None, None


_attention.defvjp(_forward, _backward)


def _given(*arrays: Array | None) -> tuple[Array, ...]:
    return tuple(x for x in arrays if x is not None)


def _options(static: _Static, mask: Array | None, keys: Array | None) -> host.Options:
    of_numbers = mask is not None and mask.dtype != bool
    return host.Options(*static, mask is not None, of_numbers, keys is not None)
