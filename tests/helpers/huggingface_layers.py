"""A module and tensors as attention functions of transformers get them."""

from __future__ import annotations

from typing import Any

import torch


class Layer(torch.nn.Module):
    def __init__(self, groups: int = 1, is_causal: bool | None = None) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        if is_causal is not None:
            self.is_causal = is_causal
        self.eval()


def qkv(queries: int = 6, keys: int = 6, kv_heads: int = 2) -> list[Any]:
    torch.manual_seed(0)
    shapes = ((2, 4, queries, 8), (2, kv_heads, keys, 8), (2, kv_heads, keys, 8))
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
