"""Attention on arrays of JAX's layout (batch, seqlen, heads, head_dim), forward and backward.

`jax.vmap` adds axes in front. They are part of the batch.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from flashbench.functional import attention, attention_backward

Array = NDArray[Any]


class Options(NamedTuple):
    """The options of a call that are no arrays, and which arrays there are beside q, k and v."""

    scale: float
    causal: bool
    window: tuple[int, int] | None
    has_mask: bool  # of bool, or of numbers
    mask_gradient: bool
    has_lengths: bool

    def text(self) -> str:
        """For `of`."""
        return json.dumps(self)

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of(cls, text: str) -> Options:
        """From `text`."""
        scale, causal, window, *rest = json.loads(text)
        return cls(scale, causal, None if window is None else tuple(window), *rest)


class _Call(NamedTuple):
    """One call of attention, with arrays as flashbench has them: (batch, heads, seqlen, head_dim)."""

    q: Array
    k: Array
    v: Array
    options: dict[str, Any]
    rest: list[Array]  # as JAX has them: what the backward pass takes, then the results


def forward(arguments: list[Array], results: list[Array], text: str) -> None:
    """results = o (batch, seqlen, heads, head_dim) and lse (batch, heads, seqlen)."""
    for q, k, v, options, (o, lse) in _calls(arguments, results, Options.of(text)):
        found = attention(q, k, v, return_lse=True, **options)
        o[:], lse[:] = found.o.swapaxes(1, 2), found.lse


def backward(arguments: list[Array], results: list[Array], text: str) -> None:
    """results = dq, dk, dv, and the gradient of a mask that has one.

    arguments: those of `forward`, then do, o and lse.
    """
    wanted = Options.of(text)
    for q, k, v, options, rest in _calls(arguments, results, wanted):
        do, o, lse, dq, dk, dv, *dmask = rest
        found = attention_backward(
            do.swapaxes(1, 2), q, k, v, o.swapaxes(1, 2), lse, return_dmask=wanted.mask_gradient, **options
        )
        for target, gradient in zip((dq, dk, dv), found, strict=True):
            target[:] = gradient.swapaxes(1, 2)
        if dmask:
            dmask[0][:] = found.dmask


def _calls(arguments: list[Array], results: list[Array], options: Options) -> Iterator[_Call]:
    """One call for all, or if a mask is broadcast over the batch, one for each place along vmap's axes."""
    arrays = arguments + results
    lead, batch = arguments[0].shape[:-4], arguments[0].shape[-4]
    count = math.prod(lead)
    if options.has_mask and arguments[3].shape[-4] != batch:
        flat = [x.reshape(count, *x.shape[len(lead) :]) for x in arrays]
        parts: Any = ([x[i] for x in flat] for i in range(count))
    else:
        parts = ([x.reshape(-1, *x.shape[len(lead) + 1 :]) for x in arrays],)
    for q, k, v, *rest in parts:
        named: dict[str, Any] = {
            "softmax_scale": options.scale,
            "causal": options.causal,
            "causal_alignment": "top-left",
            "window": options.window or (None, None),
        }
        if options.has_mask:
            named["mask"] = rest.pop(0)
        if options.has_lengths:
            named["key_lengths"] = rest.pop(0)
        yield _Call(q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2), named, rest)
