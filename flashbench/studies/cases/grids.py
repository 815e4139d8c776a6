"""The test grids of other projects' attention: suites with the same shapes and features, in our dtypes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flashbench.dtypes import Dtype, is_half
from flashbench.problem import AttentionProblem, Inputs, Window
from flashbench.studies.cases.case import Case
from flashbench.tolerances import Sizes

FLASH_HEAD_DIMS = (32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256)
FLASH_LENGTHS = (
    *((113, 203), (128, 217), (113, 211), (108, 256)),
    *((256, 512), (512, 256), (1023, 1024), (1024, 1023)),
)
FLASH_HEADS = {"mha": (2, 2), "mqa": (2, 1), "gqa": (4, 2)}
FLASH_FEATURES = ("causal", "local", "alibi", "softcap", "dropout")
FLASH_SOFTCAP = 50.0
FLASH_DROPOUT = 0.17
# Of the inputs of long sequences, as factors of standard normal ones.
LONG_LENGTHS = (2048, 4096, 8192)
FACTORS = (1.0, 5.0, 100.0)
_LONG_FEATURES: Mapping[str, Mapping[str, Any]] = {
    "softcap": {"softcap": FLASH_SOFTCAP},
    "sinks": {"sinks": True},
    "window": {"window": (300, 100)},
    "dropout": {"dropout": FLASH_DROPOUT, "dropout_seed": 1},
}
_NO_WINDOW: Window = (None, None)


def flash_attention(dtype: Dtype) -> Iterator[Case]:
    """The grid of flash-attention's test_flash_attn_output.

    Every subset of its features, at its lengths and head sizes, multi-head, multi-query and grouped. One
    sequence, and the fewest heads that make these three different, to save the oracle's time.
    """
    shapes = itertools.product(FLASH_LENGTHS, FLASH_HEAD_DIMS, FLASH_HEADS.items())
    subsets = list(itertools.product((False, True), repeat=len(FLASH_FEATURES)))
    for ((seqlen_q, seqlen_k), head_dim, (heads, (num_heads, num_kv_heads))), switches in itertools.product(
        shapes, subsets
    ):
        on = list(itertools.compress(FLASH_FEATURES, switches))
        name = "-".join((f"len{seqlen_q}x{seqlen_k}", f"d{head_dim}", heads, *on))
        problem = AttentionProblem.of(
            seqlen_q,
            seqlen_k=seqlen_k,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dtype=dtype,
            causal="causal" in on,
            window=_some_window(name, seqlen_k) if "local" in on else _NO_WINDOW,
            alibi="alibi" in on,
            softcap=FLASH_SOFTCAP if "softcap" in on else None,
            dropout=FLASH_DROPOUT if "dropout" in on else 0.0,
            dropout_seed=1,
        )
        # As there, queries are multiplied by the cap, so that logits reach it.
        sizes = Sizes(q=FLASH_SOFTCAP) if "softcap" in on else Sizes()
        yield Case(name, ", ".join(on) or "full", problem, sizes=sizes)


def _some_window(name: str, seqlen_k: int) -> Window:
    """A window with random sides, as there. One name gives the same window."""
    rng = random.Random(name)
    return rng.randrange(seqlen_k), rng.randrange(seqlen_k)


def flash_attention_long(dtype: Dtype) -> Iterator[Case]:
    """In 16-bit dtypes: long sequences of inputs of any size; features at the least of the lengths."""
    if not is_half(dtype):
        return
    plain: Mapping[str, Mapping[str, Any]] = {"full": {}}
    for length, factor in itertools.product(LONG_LENGTHS, FACTORS):
        features = {**plain, **_LONG_FEATURES} if length == min(LONG_LENGTHS) else plain
        for (name, fields), causal in itertools.product(features.items(), (False, True)):
            problem = AttentionProblem.of(length, dtype=dtype, causal=causal, **fields)
            masking = "-causal" if causal else ""
            yield Case(
                f"len{length}-x{factor:g}-{name}{masking}",
                f"long, inputs x{factor:g}",
                problem,
                sizes=Sizes(factor, factor, factor, factor),
            )


def torch_cpu(dtype: Dtype) -> Iterator[Case]:
    """The grid of PyTorch's test_scaled_dot_product_fused_attention_vs_math_cpu.

    As there, q, k and v are views of one projection.
    """
    axes = itertools.product((2, 12), (267, 1030), (1, 3), (8, 16), (False, True), ("train", "inference"))
    for batch, length, heads, head_dim, causal, mode in axes:
        problem = AttentionProblem.of(
            length, batch=batch, num_heads=heads, head_dim=head_dim, dtype=dtype, causal=causal
        )
        masking = "causal" if causal else "full"
        yield Case(
            f"b{batch}-len{length}-h{heads}-d{head_dim}-{masking}-{mode}",
            f"{masking}, {mode}",
            problem,
            layout=_of_one_projection,
            backward=mode == "train",
        )


def _of_one_projection(inputs: Inputs) -> Inputs:
    """The inputs, with q, k and v as views of one array (batch, seqlen, 3, heads, head_dim)."""
    projection = np.stack([x.swapaxes(1, 2) for x in inputs[:3]], axis=2)
    q, k, v = (projection[:, :, i].swapaxes(1, 2) for i in range(3))
    return Inputs(q, k, v, inputs.do)
