"""JAX's `jax.nn.dot_product_attention`, compiled by XLA, which keeps every score in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from flashbench.block_mask import BlockMask
from flashbench.engines.peers import JaxOutline
from flashbench.engines.protocol import Array, AttentionGradients, Forward, Ran, Settings
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.problem import AttentionProblem, Direction

_COMPILED = 64  # problems whose machine code is kept


class JaxEngine(JaxOutline):
    """The function under `jax.jit`, and its gradients by `jax.vjp`. XLA chooses its threads.

    Its softmax is in float32, whatever the dtype. A row from which a mask hides every key gets the mean of
    all values.
    """

    summary = "JAX's dot_product_attention by XLA: scores materialised"

    def forward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        q: Array,
        k: Array,
        v: Array,
        *,
        extras: Extras = NO_EXTRAS,
        keep: bool = False,
    ) -> Forward:
        """o; the lse that JAX gives is rounded to the dtype of k, so none is returned."""
        with jax.enable_x64(problem.dtype == "float64"):
            o = _compiled(problem).forward(*_given(problem, extras, q, k, v))
            return Forward(_array(o).swapaxes(1, 2), None)

    def backward(
        self,
        problem: AttentionProblem,
        settings: Settings,
        do: Array,
        q: Array,
        k: Array,
        v: Array,
        forward: Forward,
        *,
        extras: Extras = NO_EXTRAS,
        mask_gradient: bool = False,
    ) -> AttentionGradients:
        """JAX's gradients, through a forward of their own."""
        with jax.enable_x64(problem.dtype == "float64"):
            arguments = _given(problem, extras, q, k, v)
            dq, dk, dv, dmask = _compiled(problem).backward(*arguments, _tensor(problem, do))
            dq, dk, dv = (_array(x).swapaxes(1, 2) for x in (dq, dk, dv))
            of_mask = _array(dmask) if mask_gradient and dmask is not None else None
            return AttentionGradients(dq, dk, dv, None, of_mask)

    def kernel(self, problem: AttentionProblem, direction: Direction) -> Ran | None:
        """The one that JAX has for CPUs, by its name."""
        return Ran("xla")


class _Compiled:
    """Both passes of one problem."""

    def __init__(self, problem: AttentionProblem) -> None:
        window = None
        if problem.window_left is not None or problem.window_right is not None:
            sides = problem.window_left, problem.window_right
            # JAX has no side without a limit: the lengths hide nothing more.
            window = tuple(problem.seqlen_q + problem.seqlen_k if side is None else side for side in sides)

        def attend(q: Any, k: Any, v: Any, bias: Any, mask: Any, lengths: Any) -> Any:
            return jax.nn.dot_product_attention(
                q,
                k,
                v,
                bias,
                mask,
                scale=problem.scale,
                is_causal=problem.causal and problem.masked,  # not where its one query sees all keys
                key_value_seq_lengths=lengths,
                local_window_size=window,
            )

        def gradients(q: Any, k: Any, v: Any, bias: Any, mask: Any, lengths: Any, do: Any) -> Any:
            if bias is None:
                _, pull = jax.vjp(lambda q, k, v: attend(q, k, v, None, mask, lengths), q, k, v)
                return *pull(do), None
            _, pull = jax.vjp(lambda q, k, v, bias: attend(q, k, v, bias, mask, lengths), q, k, v, bias)
            return pull(do)

        self.forward: Callable[..., Any] = jax.jit(attend)
        self.backward: Callable[..., Any] = jax.jit(gradients)


@functools.lru_cache(maxsize=_COMPILED)
def _compiled(problem: AttentionProblem) -> _Compiled:
    return _Compiled(problem)


def _given(problem: AttentionProblem, extras: Extras, *arrays: Array) -> tuple[Any, ...]:
    """q, k, v, bias, mask and lengths as JAX takes them."""
    mask, bias = extras.mask, None
    if isinstance(mask, BlockMask):
        mask = np.broadcast_to(
            mask.dense(), (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
        )
    if problem.mask == "float" and mask is not None:
        # One entry of each axis along which it is broadcast, so that its gradient has this shape too.
        bias, mask = jnp.asarray(mask[tuple(map(slice, problem.mask_shape))]), None
    lengths = None if problem.key_lengths is None else jnp.asarray(problem.key_lengths, jnp.int32)
    shown = None if mask is None else jnp.asarray(mask)
    return *(_tensor(problem, x) for x in arrays), bias, shown, lengths


def _tensor(problem: AttentionProblem, x: Array) -> Any:
    """(batch, seqlen, heads, head_dim)."""
    x = x.swapaxes(1, 2)
    return jnp.asarray(x.view(ml_dtypes.bfloat16) if problem.dtype == "bfloat16" else x)


def _array(x: Any) -> Array:
    """The numbers, writable, as engines store them."""
    found = np.array(x)
    return found.view(np.uint16) if found.dtype == ml_dtypes.bfloat16 else found
