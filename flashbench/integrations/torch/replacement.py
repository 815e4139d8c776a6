"""flashbench in the place of `torch.nn.functional.scaled_dot_product_attention`, for a block or for good."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch.nn import functional as torch_functional

from flashbench.integrations.torch.attentions import find_attention
from flashbench.integrations.torch.functional import torch_sdpa

_lock = threading.Lock()
_asked: list[str] = []  # attentions by name, in order; the last one counts


def enable(attention: str = "flash") -> None:
    """Let every call of `torch.nn.functional.scaled_dot_product_attention` in this process come here.

    That is what models call, `torch.nn.MultiheadAttention` too. Code that imported the function itself
    (`from torch.nn.functional import scaled_dot_product_attention`) before keeps PyTorch's.

    attention: "flash", "standard", "torch-flash" or "torch-math". Raises EngineError where it is another.
    """
    find_attention(attention)
    with _lock:
        _asked.append(attention)
        _install()


def disable() -> None:
    """Undo the last `enable`. Nothing happens where there was none."""
    with _lock:
        if _asked:
            _asked.pop()
        _install()


@contextlib.contextmanager
def flashbench_attention(attention: str = "flash") -> Iterator[None]:
    """`enable` for a block of code, in all threads of the process.

    >>> import torch
    >>> x = torch.eye(4)[None, None]
    >>> with flashbench_attention():
    ...     o = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    >>> o[0, 0, 0]
    tensor([1., 0., 0., 0.])
    """
    enable(attention)
    try:
        yield
    finally:
        disable()


def _install() -> None:
    torch_functional.scaled_dot_product_attention = find_attention(_asked[-1]) if _asked else torch_sdpa
