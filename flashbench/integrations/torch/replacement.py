"""Replaces `torch.nn.functional.scaled_dot_product_attention` by flashbench, for a block or for good."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch.compiler import config as compiler_config

from flashbench.integrations.torch import place
from flashbench.integrations.torch.attentions import find_attention
from flashbench.integrations.torch.thread_report import warn_of_problems

_lock = threading.Lock()
_requests: dict[object, str] = {}  # attentions by name, in order; the last one is in place
_tag: str = getattr(compiler_config, "cache_key_tag", "")  # the user's own tag


def enable(attention: str = "flash") -> None:
    """Replace `torch.nn.functional.scaled_dot_product_attention` in this process.

    Models call that function, `torch.nn.MultiheadAttention` too. Code that already imported the function
    itself (`from torch.nn.functional import scaled_dot_product_attention`) keeps PyTorch's. Code that
    `torch.compile` already compiled may keep it too: compile while the wanted attention is in place.

    The first call in a process warns of the problems that `threads` finds.

    attention: "flash", "standard", "torch-flash" or "torch-math". Any other name raises EngineError.
    """
    _request(attention)


def disable() -> None:
    """Undo the last `enable`. Does nothing if there was none."""
    with _lock:
        if _requests:
            _requests.popitem()
        _install()


@contextlib.contextmanager
def flashbench_attention(attention: str = "flash") -> Iterator[None]:
    """`enable` for a block of code, in all threads of the process. Blocks of several threads may overlap.

    Raises EngineError for an unknown name.

    >>> import torch
    >>> x = torch.eye(4)[None, None]
    >>> with flashbench_attention():
    ...     o = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    >>> o[0, 0, 0]
    tensor([1., 0., 0., 0.])
    """
    block = _request(attention)
    try:
        yield
    finally:
        with _lock:
            _requests.pop(block, None)
            _install()


def _request(attention: str) -> object:
    find_attention(attention)
    warn_of_problems()
    request = object()
    with _lock:
        _requests[request] = attention
        _install()
    return request


def _install() -> None:
    last = next(reversed(_requests.values()), None)
    place.put(place.torch_sdpa if last is None else find_attention(last))
    # Compilers treat some of PyTorch's functions that call attention as one operation. Without a tag of our
    # own they would take from their disk cache code that they made with another attention in place.
    if hasattr(compiler_config, "cache_key_tag"):  # from PyTorch 2.7 on
        compiler_config.cache_key_tag = _tag if last is None else f"{_tag} flashbench {last}"
