"""What an operator is told beside q, k and v: in one order, for its schema and its Python side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from flashbench.engines import Array


class Options(NamedTuple):
    """As `flashbench.attention` has them; of types that an operator's schema knows."""

    mask: Tensor | None = None
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    key_lengths: Tensor | None = None
    dropout_seed: Tensor | None = None  # one number; a tensor, so that tracing does not make it a constant
    engine: str = "flash"
    softmax_scale: float | None = None
    causal: bool = False
    causal_alignment: str = "bottom-right"
    window_left: int | None = None
    window_right: int | None = None
    softcap: float | None = None
    dropout: float = 0.0

    @property
    def keeps_p(self) -> bool:
        """Whether this engine's forward can hand its probabilities to its backward."""
        return self.engine == "standard" and self.softcap is None and not self.dropout

    def keywords(self, array: Callable[[Tensor], Array]) -> dict[str, Any]:
        """For `prepare`, without most of what is at its default: a small problem's attention takes no longer
        than checking all of it would.
        """
        found: dict[str, Any] = {
            "engine": self.engine,
            "softmax_scale": self.softmax_scale,
            "causal": self.causal,
            "causal_alignment": self.causal_alignment,
        }
        if self.window_left is not None or self.window_right is not None:
            found["window"] = self.window_left, self.window_right
        if self.softcap is not None:
            found["softcap"] = self.softcap
        if self.dropout:
            found["dropout"] = self.dropout
        if self.dropout_seed is not None:
            found["dropout_seed"] = int(self.dropout_seed) % 2**64
        for name, x in zip(self._fields[:TENSORS], self[:TENSORS], strict=True):
            if x is not None and name != "dropout_seed":
                found[name] = array(x)
        return found


TENSORS = 5  # the first fields of Options
SCHEMA = ", ".join(
    (
        "Tensor? mask",
        "Tensor? alibi_slopes",
        "Tensor? sinks",
        "Tensor? key_lengths",
        "Tensor? dropout_seed",
        "str engine",
        "float? softmax_scale",
        "bool causal",
        "str causal_alignment",
        "SymInt? window_left",
        "SymInt? window_right",
        "float? softcap",
        "float dropout",
    )
)
