"""Exact attention for Hugging Face's transformers, by name: `attn_implementation="fb_numba"`.

>>> from flashbench.integrations.huggingface import register
>>> register()
'fb_numba'

Needs the extra `hf`: pip install 'flashbench[hf]'.
"""

from __future__ import annotations

from flashbench.integrations.requirements import missing

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise missing(error, "attention in Hugging Face's models", "hf") from error

from flashbench.integrations.huggingface.registration import register
from flashbench.integrations.torch import Stats, reset_stats, stats

__all__ = ["Stats", "register", "reset_stats", "stats"]
