"""Exact attention on the CPU, and its cost: time, memory, exactness, share of the hardware limit.

A public name is imported at its first use, so `import flashbench` and `flashbench --help` load neither
NumPy nor Numba.
"""

from __future__ import annotations

import sys

# `python -m flashbench` puts the current directory before the standard library, so that a user's json.py
# would hide Python's. Remove it before any other import. Other programs keep theirs: they may need it.
if (
    sys.argv[:1] == ["-m"]  # sys.argv[0] while runpy looks for the module
    and "-mflashbench" in (*sys.orig_argv, *map("".join, zip(sys.orig_argv, sys.orig_argv[1:], strict=False)))
    and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
):
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashbench.block_mask import BlockMask
    from flashbench.engines import AttentionGradients
    from flashbench.errors import AttentionError, EngineError, FlashbenchError, UnsupportedError
    from flashbench.extras import alibi_slopes
    from flashbench.functional import AttentionOutput, attention, attention_backward
    from flashbench.kv_cache import KVCache, PagedKVCache
    from flashbench.merge import merge_attention
    from flashbench.modules import (
        AttentionMode,
        FlashAttention,
        FlashAttentionConfig,
        MemoryUsage,
        ModelConfig,
        MultiHeadAttention,
        MultiHeadAttentionConfig,
        MultiHeadGradients,
        ProjectionWeights,
    )
    from flashbench.problem import AttentionProblem
    from flashbench.varlen import attention_varlen, attention_varlen_backward

    __version__: str

__all__ = [
    "AttentionError",
    "AttentionGradients",
    "AttentionMode",
    "AttentionOutput",
    "AttentionProblem",
    "BlockMask",
    "EngineError",
    "FlashAttention",
    "FlashAttentionConfig",
    "FlashbenchError",
    "KVCache",
    "MemoryUsage",
    "ModelConfig",
    "MultiHeadAttention",
    "MultiHeadAttentionConfig",
    "MultiHeadGradients",
    "PagedKVCache",
    "ProjectionWeights",
    "UnsupportedError",
    "__version__",
    "alibi_slopes",
    "attention",
    "attention_backward",
    "attention_varlen",
    "attention_varlen_backward",
    "merge_attention",
]

_HOMES = {
    "AttentionError": "errors",
    "AttentionGradients": "engines",
    "AttentionMode": "modules",
    "AttentionOutput": "functional",
    "AttentionProblem": "problem",
    "BlockMask": "block_mask",
    "EngineError": "errors",
    "FlashAttention": "modules",
    "FlashAttentionConfig": "modules",
    "FlashbenchError": "errors",
    "KVCache": "kv_cache",
    "MemoryUsage": "modules",
    "ModelConfig": "modules",
    "MultiHeadAttention": "modules",
    "MultiHeadAttentionConfig": "modules",
    "MultiHeadGradients": "modules",
    "PagedKVCache": "kv_cache",
    "ProjectionWeights": "modules",
    "UnsupportedError": "errors",
    "alibi_slopes": "extras",
    # No module may be named `attention`: importing it would replace the function.
    "attention": "functional",
    "attention_backward": "functional",
    "attention_varlen": "varlen",
    "attention_varlen_backward": "varlen",
    "merge_attention": "merge",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("flashbench")
    elif name in _HOMES:
        value = getattr(import_module(f"flashbench.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'flashbench' has no attribute {name!r}")
    globals()[name] = value  # the next access does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
