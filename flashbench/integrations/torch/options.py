"""What an operator is told beside q, k and v: in one order, for its schema and its Python side."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
    block_q: int | None = None
    block_k: int | None = None
    dropout: float = 0.0  # last: compilers drop the None at an operator's end

    @property
    def keeps_p(self) -> bool:
        """Whether this engine's forward can hand its probabilities to its backward."""
        return self.engine == "standard" and self.softcap is None and not self.dropout


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
        "SymInt? block_q",
        "SymInt? block_k",
        "float dropout",
    )
)
