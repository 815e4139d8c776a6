"""Tiled exact attention as a class with a forward and a backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

from flashbench.arguments import Call, as_count, as_flag, as_scale, prepare
from flashbench.engines import Array, AttentionGradients, Forward
from flashbench.errors import AttentionError
from flashbench.functional import AttentionOutput
from flashbench.problem import Direction


def check_dropout(dropout: float) -> None:
    """Raise AttentionError unless dropout is 0.0, as these classes have no dropout."""
    if as_scale("dropout", dropout) != 0.0:
        raise AttentionError(
            f"dropout must be 0.0 in this version, which has no exact dropout yet, not {dropout}"
        )


@dataclass(frozen=True)
class FlashAttentionConfig:
    """Settings of `FlashAttention`. Raises AttentionError if one breaks a rule.

    block_size: queries and keys per tile; None: chosen for the problem.
    scale: softmax_scale; None: 1 / sqrt(head_dim).
    causal: a query sees no later key.
    use_simd: False selects scalar loops.
    dropout: must be 0.0 in this version.
    """

    block_size: int | None = 64
    scale: float | None = None
    causal: bool = False
    use_simd: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        as_count("block_size", self.block_size)
        as_scale("scale", self.scale)
        as_flag("causal", self.causal)
        as_flag("use_simd", self.use_simd)
        check_dropout(self.dropout)


class FlashAttention:
    """Tiled exact attention on arrays of heads.

    >>> import numpy as np
    >>> attention = FlashAttention(FlashAttentionConfig(causal=True))
    >>> q = k = v = np.eye(4)[None]
    >>> attention.forward(q, k, v).shape
    (1, 4, 4)
    >>> attention.backward(np.ones((1, 4, 4))).dv.sum().round(12)
    np.float64(16.0)
    """

    def __init__(self, config: FlashAttentionConfig | None = None) -> None:
        """config: None means the defaults of FlashAttentionConfig."""
        self.config = FlashAttentionConfig() if config is None else config
        self._last: tuple[Call, Forward] | None = None

    @overload
    def forward(self, q: Any, k: Any, v: Any, *, return_lse: Literal[False] = False) -> Array: ...

    @overload
    def forward(self, q: Any, k: Any, v: Any, *, return_lse: Literal[True]) -> AttentionOutput: ...

    def forward(self, q: Any, k: Any, v: Any, *, return_lse: bool = False) -> Array | AttentionOutput:
        """o, or AttentionOutput(o, lse) with return_lse. Shapes and errors are those of
        `flashbench.attention`.

        The object keeps the arrays for `backward` without a copy: do not change them before that.
        """
        call = self._prepare("fwd", q, k, v)
        forward = call.forward(keep=True)
        self._last = call, forward
        if return_lse:
            return AttentionOutput(call.give(forward.o), call.give_lse(forward))
        return call.give(forward.o)

    @overload
    def backward(self, do: Any) -> AttentionGradients: ...

    @overload
    def backward(self, do: Any, q: Any, k: Any, v: Any, o: Any, lse: Any) -> AttentionGradients: ...

    def backward(
        self, do: Any, q: Any = None, k: Any = None, v: Any = None, o: Any = None, lse: Any = None
    ) -> AttentionGradients:
        """dq, dk and dv in the shapes of q, k and v: of the last forward, or of the given q, k, v, o and lse.

        do has o's shape. Raises AttentionError, also if there was no forward and none is given.
        """
        given = [x is not None for x in (q, k, v, o, lse)]
        if all(given):
            call = self._prepare("bwd", q, k, v)
            forward = Forward(call.take("o", o, "o"), call.take("lse", lse, "lse"))
        elif any(given):
            raise AttentionError("backward takes do alone, or do with all of q, k, v, o and lse")
        elif self._last is None:
            raise AttentionError(
                "backward has no forward to go back through",
                hint="call forward first, or give q, k, v, o and lse",
            )
        else:
            call, forward = self._last
        do = call.take("do", do, "o")
        return call.give_gradients(call.backward(do, forward))

    def _prepare(self, direction: Direction, q: Any, k: Any, v: Any) -> Call:
        return prepare(
            direction,
            q,
            k,
            v,
            softmax_scale=self.config.scale,
            causal=self.config.causal,
            engine="flash",
            block_q=self.config.block_size,
            block_k=self.config.block_size,
            use_simd=self.config.use_simd,
        )
