"""Lets Transformers take `attn_implementation="flash_attention_2"` on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers.utils.import_utils as checks
from transformers import modeling_flash_attention_utils, modeling_utils

# The questions that Transformers asks once, and remembers the answers of.
_REMEMBERED = "is_flash_attn_2_available", "is_flash_attn_greater_or_equal", "_package_distribution_mapping"


def accept() -> Callable[[], None]:
    """Make it so; returns what undoes it.

    Transformers asks `is_flash_attn_2_available`, under names in many modules, and it remembers the answer.
    So it is asked here once, while it believes that there is a GPU. Whether the weights of a model lie on one
    is not asked.
    """
    _forget()
    has_gpu = checks.is_torch_cuda_available
    checks.is_torch_cuda_available = lambda: True
    try:
        for asked in ({}, {"kernels_fallback_ok": True}, {"kernels_fallback_ok": False}):
            checks.is_flash_attn_2_available(**asked)
    finally:
        checks.is_torch_cuda_available = has_gpu
    original = modeling_utils.PreTrainedModel._flash_attn_can_dispatch

    def can_dispatch(self: Any, flash_attn_version: int, is_init_check: bool = False) -> bool:
        answer: bool = original(self, flash_attn_version, is_init_check or flash_attn_version == 2)
        return answer

    modeling_utils.PreTrainedModel._flash_attn_can_dispatch = can_dispatch

    def undo() -> None:
        modeling_utils.PreTrainedModel._flash_attn_can_dispatch = original
        _forget()

    return undo


def _forget() -> None:
    """Forget remembered answers, and functions of a flash_attn that was imported."""
    for name in _REMEMBERED:
        forget = getattr(getattr(checks, name, None), "cache_clear", None)
        if forget is not None:
            forget()
    if hasattr(modeling_flash_attention_utils, "_loaded_implementation"):
        modeling_flash_attention_utils._loaded_implementation = None
