"""Exact attention in Hugging Face's transformers, under a name: `attn_implementation="fb_numba"`.

>>> from flashbench.integrations.huggingface import register
>>> register()
'fb_numba'

Needs the extra `hf`: pip install 'flashbench[hf]'.
"""

from __future__ import annotations

from flashbench.integrations.huggingface.registration import register
from flashbench.integrations.torch import Stats, reset_stats, stats

__all__ = ["Stats", "register", "reset_stats", "stats"]
