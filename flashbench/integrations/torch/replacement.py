"""flashbench in the place of `torch.nn.functional.scaled_dot_product_attention`, for a block or for good."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch.compiler import config as compiler_config

from flashbench.integrations.torch import place
from flashbench.integrations.torch.attentions import find_attention
from flashbench.integrations.torch.thread_report import warn_of_problems

_lock = threading.Lock()
_asked: dict[object, str] = {}  # attentions by name, in order; the last one counts
_tag: str = getattr(compiler_config, "cache_key_tag", "")  # the user's own


def enable(attention: str = "flash") -> None:
    """Let every call of `torch.nn.functional.scaled_dot_product_attention` in this process come here.

    That is what models call, `torch.nn.MultiheadAttention` too. Code that imported the function itself
    (`from torch.nn.functional import scaled_dot_product_attention`) before keeps PyTorch's, and so may what
    `torch.compile` made before: compile while the attention that you want is in place.

    The first call in a process warns of what `threads` finds wrong.

    attention: "flash", "standard", "torch-flash" or "torch-math". Raises EngineError where it is another.
    """
    _ask(attention)


def disable() -> None:
    """Undo the last `enable`. Nothing happens where there was none."""
    with _lock:
        if _asked:
            _asked.popitem()
        _install()


@contextlib.contextmanager
def flashbench_attention(attention: str = "flash") -> Iterator[None]:
    """`enable` for a block of code, in all threads of the process; blocks of several threads may overlap.

    >>> import torch
    >>> x = torch.eye(4)[None, None]
    >>> with flashbench_attention():
    ...     o = torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    >>> o[0, 0, 0]
    tensor([1., 0., 0., 0.])
    """
    block = _ask(attention)
    try:
        yield
    finally:
        with _lock:
            _asked.pop(block, None)
            _install()


def _ask(attention: str) -> object:
    find_attention(attention)
    warn_of_problems()
    who = object()
    with _lock:
        _asked[who] = attention
        _install()
    return who


def _install() -> None:
    last = next(reversed(_asked.values()), None)
    place.put(place.torch_sdpa if last is None else find_attention(last))
    # Compilers take some of PyTorch's functions that call attention as one operation, and would find on disk
    # what they once made of it with another attention in place.
    if hasattr(compiler_config, "cache_key_tag"):  # from PyTorch 2.7 on
        compiler_config.cache_key_tag = _tag if last is None else f"{_tag} flashbench {last}"
