"""Mask functions of transformers by name, for tests that try every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)


def mask_function(kind: str, window: int) -> Callable[..., Any]:
    return {
        "causal": causal_mask_function,
        "window": sliding_window_causal_mask_function(window),
        "around": sliding_window_bidirectional_mask_function(window),
        "all": bidirectional_mask_function,
        "chunked": chunked_causal_mask_function(window, torch.zeros(2, dtype=torch.int64)),
    }[kind]
