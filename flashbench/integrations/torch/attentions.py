"""Attentions by name, all with the signature of PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashbench.errors import EngineError
from flashbench.integrations.torch.functional import scaled_dot_product_attention
from flashbench.integrations.torch.overrides import overriding
from flashbench.integrations.torch.place import Attention, in_its_place, torch_sdpa


def find_attention(name: str) -> Attention:
    """The attention of that name. An unknown name raises EngineError, which lists the known ones."""
    try:
        return ATTENTIONS[name]
    except KeyError:
        raise EngineError(f"unknown attention {name!r}; known: {', '.join(ATTENTIONS)}") from None


def _math(*arguments: Any, **named: Any) -> Tensor:
    by = overriding(*arguments, *named.values())
    with sdpa_kernel(SDPBackend.MATH):
        return (torch_sdpa if by is None else in_its_place)(*arguments, **named)


ATTENTIONS: dict[str, Attention] = {
    "flash": scaled_dot_product_attention,
    "standard": functools.partial(scaled_dot_product_attention, engine="standard"),
    "torch-flash": torch_sdpa,  # PyTorch chooses its kernel: flash, unless that cannot run the call
    "torch-math": _math,
}

for _attention in ATTENTIONS.values():
    # TorchScript recognises PyTorch's functions by identity. It would compile the source of a replacement.
    torch.jit._builtins._register_builtin(_attention, "aten::scaled_dot_product_attention")
