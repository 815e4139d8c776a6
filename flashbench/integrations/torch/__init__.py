"""Exact attention for PyTorch on CPUs: `attention` and `scaled_dot_product_attention` on tensors, with
gradients. `enable` and `flashbench_attention` also give them to models that do not know flashbench.

Needs the extra `torch`: pip install 'flashbench[torch]'.
"""

from __future__ import annotations

from flashbench.integrations.requirements import missing

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise missing(error, "flashbench.integrations.torch", "torch") from error

from flashbench.integrations.torch import flops as _flops  # noqa: F401  # registers formulas
from flashbench.integrations.torch.attentions import ATTENTIONS, find_attention
from flashbench.integrations.torch.functional import attention, scaled_dot_product_attention
from flashbench.integrations.torch.replacement import disable, enable, flashbench_attention
from flashbench.integrations.torch.statistics import Stats, reset_stats, stats
from flashbench.integrations.torch.thread_report import OpenMP, Threads, threads

__all__ = [
    "ATTENTIONS",
    "OpenMP",
    "Stats",
    "Threads",
    "attention",
    "disable",
    "enable",
    "find_attention",
    "flashbench_attention",
    "reset_stats",
    "scaled_dot_product_attention",
    "stats",
    "threads",
]
