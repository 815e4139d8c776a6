"""The attentions that a model can be given by name, all with the signature of PyTorch's own function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashbench.errors import EngineError
from flashbench.integrations.torch.functional import scaled_dot_product_attention, torch_sdpa

Attention = Callable[..., Tensor]  # called as torch.nn.functional.scaled_dot_product_attention is


def find_attention(name: str) -> Attention:
    """The attention of that name. Raises EngineError, naming the known ones."""
    try:
        return ATTENTIONS[name]
    except KeyError:
        raise EngineError(f"unknown attention {name!r}; known: {', '.join(ATTENTIONS)}") from None


def _math(*arguments: Any, **named: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        o: Tensor = torch_sdpa(*arguments, **named)
    return o


ATTENTIONS: dict[str, Attention] = {
    "flash": scaled_dot_product_attention,
    "standard": functools.partial(scaled_dot_product_attention, engine="standard"),
    "torch-flash": torch_sdpa,  # PyTorch's own choice, which is flash wherever it can be
    "torch-math": _math,
}
