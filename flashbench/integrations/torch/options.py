"""What an operator is told beside q, k and v: in one order, for its schema and its Python side."""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

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
    dropout: float = 0.0

    @property
    def keeps_p(self) -> bool:
        """Whether this engine's forward can hand its probabilities to its backward."""
        return self.engine == "standard" and self.softcap is None and not self.dropout


# A field's type as an operator's schema has it.
_SCHEMA_TYPES: dict[Any, str] = {
    Tensor | None: "Tensor?",
    str: "str",
    bool: "bool",
    float: "float",
    float | None: "float?",
    int | None: "SymInt?",
}
SCHEMA = ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in get_type_hints(Options).items())
TENSORS = SCHEMA.count("Tensor?")  # the first fields of Options
