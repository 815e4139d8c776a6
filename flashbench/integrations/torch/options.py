"""An operator's arguments after q, k and v, in one order for its schema and its Python code."""

from __future__ import annotations

from typing import Any, NamedTuple, get_type_hints

from torch import Tensor


class Options(NamedTuple):
    """Options of `flashbench.attention`, in types that an operator's schema allows."""

    mask: Tensor | None = None
    alibi_slopes: Tensor | None = None
    sinks: Tensor | None = None
    key_lengths: Tensor | None = None
    dropout_seed: Tensor | None = None  # a tensor of one number: tracing would make an int a constant
    # Packed sequences: q is (1, heads, total, head_dim), and so are k and v.
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    block_table: Tensor | None = None  # k and v are (pages, heads, page_size, head_dim)
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
        """Whether the engine's forward can keep its probabilities for its backward."""
        return self.engine == "standard" and self.softcap is None and not self.dropout


# The name of each field type in an operator's schema.
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
