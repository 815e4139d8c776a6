"""The function that `torch.nn.functional.scaled_dot_product_attention` names: PyTorch's or a replacement."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as torch_functional

Attention = Callable[..., Tensor]  # with the signature of torch.nn.functional.scaled_dot_product_attention

# PyTorch's own function, also after a replacement took its place.
torch_sdpa: Attention = torch_functional.scaled_dot_product_attention

_lock = threading.Lock()
_replacement = torch_sdpa
_borrowers = 0  # running calls that need PyTorch's own function in its place


def put(attention: Attention) -> None:
    """Put an attention in that place, for all threads."""
    global _replacement
    with _lock:
        _replacement = attention
        if not _borrowers:
            torch_functional.scaled_dot_product_attention = attention


@torch.compiler.disable  # compilers cannot trace locks, nor a place that other threads change
def in_its_place(*arguments: Any, **named: Any) -> Tensor:
    """Call PyTorch's function while it is in its place, so that overriding code recognises it.

    Meanwhile other threads find it there too. They compute the same, but `stats` does not count it.
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
            if torch_functional.scaled_dot_product_attention is _replacement:  # not another library's
                torch_functional.scaled_dot_product_attention = torch_sdpa
        yield
    finally:
        with _lock:
            _borrowers -= borrowed
            if not _borrowers and torch_functional.scaled_dot_product_attention is torch_sdpa:
                torch_functional.scaled_dot_product_attention = _replacement
