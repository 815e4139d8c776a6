"""What stands in the place of PyTorch's function, `torch.nn.functional.scaled_dot_product_attention`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

Attention = Callable[..., Tensor]  # called as torch.nn.functional.scaled_dot_product_attention is

# PyTorch's own, whatever stands in its place later.
torch_sdpa: Attention = torch_functional.scaled_dot_product_attention

_lock = threading.Lock()
_replacement = torch_sdpa
_borrowers = 0  # calls under way that need PyTorch's own function in its place


def put(attention: Attention) -> None:
    """Let it stand there, for all threads."""
    global _replacement
    with _lock:
        _replacement = attention
        if not _borrowers:
            torch_functional.scaled_dot_product_attention = attention


@torch.compiler.disable  # which cannot follow locks, nor what others find here
def in_its_place(*arguments: Any, **named: Any) -> Tensor:
    """PyTorch's function, called while it stands in its place, so that what it calls recognises it.

    Meanwhile other threads find it there too: what they compute is the same, but not counted.
    """
    with _borrowed():
        return torch_sdpa(*arguments, **named)


@contextlib.contextmanager
def _borrowed() -> Iterator[None]:
    global _borrowers
    borrowed = False
    try:
        with _lock:
            _borrowers += 1
            borrowed = True
            if torch_functional.scaled_dot_product_attention is _replacement:  # and nobody else's
                torch_functional.scaled_dot_product_attention = torch_sdpa
        yield
    finally:
        with _lock:
            _borrowers -= borrowed
            if not _borrowers and torch_functional.scaled_dot_product_attention is torch_sdpa:
                torch_functional.scaled_dot_product_attention = _replacement
