"""Kernels with flash-attention's interface in local folders, as builds of Hugging Face's hub are laid out."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashbench import engines
from flashbench.engines.peers.hf_source import VARIABLE

RIGHT = "from flashbench.integrations.flash_attn import flash_attn_func"

_SIGNATURE = """\
def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False):
"""
# Plain PyTorch, with a module of its own beside, as builds have their compiled one.
_FORMULA = """\
import torch


def attend(q, k, v, softmax_scale, causal, window_size):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    s = q.double() @ k.double().mT * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
    i = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2]
    j = torch.arange(k.shape[2])
    left, right = window_size[0], 0 if causal else window_size[1]
    hidden = (j > i + right if right >= 0 else j < 0) | (j < i - left if left >= 0 else j < 0)
    p = s.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0)
    return (p @ v.double()).to(q.dtype).transpose(1, 2)
"""
# It takes softcap, ALiBi and dropout, and never passes them on.
SILENT = f"from ._formula import attend\n\n\n{_SIGNATURE}\
    return attend(q, k, v, softmax_scale, causal, window_size)\n"
# As kernels for inference: bfloat16 alone, no gradients, no softcap, and lse beside o.
CHOOSY = """\
import torch
from ._formula import attend


def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):
    if q.dtype is not torch.bfloat16:
        raise RuntimeError(f"expected bfloat16, got {q.dtype}\\nat kernel.cpp:7")
    with torch.no_grad():
        return attend(q, k, v, softmax_scale, causal, window_size), None
"""


def make(source: str, folder: Path) -> Path:
    """Write a kernel's package into the folder, and return it."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(source)
    (folder / "_formula.py").write_text(_FORMULA)
    return folder


def choose(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it the kernel of this test and of the processes that it starts."""
    name(str(make(source, folder)), monkeypatch)


def name(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set FLASHBENCH_HF_KERNEL, and forget the engine of another value."""
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    engines._built_in.cache_clear()
