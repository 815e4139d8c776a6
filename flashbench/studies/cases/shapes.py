"""Cases of every shape: lengths, heads, head sizes, blocks, threads, memory layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from flashbench.dtypes import Dtype
from flashbench.engines import Array, Settings
from flashbench.problem import AttentionProblem, Inputs
from flashbench.studies.cases.case import Case, each_masking

LENGTHS = (1, 2, 5, 17, 64, 113, 128, 203, 256, 1023, 1024)
UNEQUAL_LENGTHS = ((1, 203), (203, 1), (2, 17), (17, 2), (113, 203), (203, 113), (64, 1024), (1024, 64))
HEADS = ((4, 4), (6, 3), (8, 2), (8, 1))
BLOCKS = (
    *((size, size) for size in (1, 2, 3, 16, 32, 64, 100, 128, 256)),
    *((1, 256), (256, 1), (17, 5), (5, 17), (16, 256), (256, 16), (64, 7), (7, 64), (96, 33)),
)
HEAD_DIMS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 40, 63, 65, 80, 96, 127, 128, 129, 160, 255, 256)
UNEQUAL_HEAD_DIMS = ((1, 64), (64, 1), (17, 33), (33, 17), (256, 8), (8, 256))
THREADS = (1, 2, 3, 8)


def square(dtype: Dtype) -> Iterator[Case]:
    """As many queries as keys."""
    for length in LENGTHS:
        for name, problem in each_masking(f"square-{length}", AttentionProblem.of(length, dtype=dtype)):
            yield Case(name, "square", problem)


def unequal_lengths(dtype: Dtype) -> Iterator[Case]:
    """More keys than queries, and more queries than keys, where the first queries may see no key."""
    for seqlen_q, seqlen_k in UNEQUAL_LENGTHS:
        problem = AttentionProblem.of(seqlen_q, seqlen_k=seqlen_k, dtype=dtype)
        for name, masked in each_masking(f"len{seqlen_q}x{seqlen_k}", problem):
            yield Case(name, "unequal lengths", masked)


def no_visible_key(dtype: Dtype) -> Iterator[Case]:
    """Whole blocks of queries without a visible key."""
    for seqlen_q, seqlen_k in ((2, 1), (17, 5), (203, 113), (1024, 17)):
        problem = AttentionProblem.of(
            seqlen_q, seqlen_k=seqlen_k, num_heads=2, num_kv_heads=1, dtype=dtype, causal=True
        )
        name = f"unseeing-{seqlen_q}x{seqlen_k}"
        yield Case(name, "rows that see no key", problem)
        yield Case(f"{name}-blocks-16x16", "rows that see no key", problem, Settings(16, 16))


def grouped_heads(dtype: Dtype) -> Iterator[Case]:
    """Query heads that share key heads (GQA), or all share one (MQA)."""
    for num_heads, num_kv_heads in HEADS:
        problem = AttentionProblem.of(
            113,
            seqlen_k=203,
            batch=2,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=32,
            dtype=dtype,
        )
        for name, masked in each_masking(f"gqa-{num_heads}-{num_kv_heads}-len113x203", problem):
            yield Case(name, "grouped heads", masked)


def blocks(dtype: Dtype) -> Iterator[Case]:
    """Tiles of any size, none of which divides the lengths."""
    problem = AttentionProblem.of(203, seqlen_k=230, num_heads=2, head_dim=20, dtype=dtype, causal=True)
    for block_q, block_k in BLOCKS:
        yield Case(f"blocks-{block_q}x{block_k}", "blocks", problem, Settings(block_q, block_k))


def threads(dtype: Dtype) -> Iterator[Case]:
    """More threads than heads, and fewer."""
    for count in THREADS:
        for num_heads in (1, 3):
            problem = AttentionProblem.of(300, num_heads=num_heads, dtype=dtype, causal=True)
            name = f"threads-{count}-heads-{num_heads}"
            yield Case(name, "threads", problem, Settings(num_threads=count))


def head_dims(dtype: Dtype) -> Iterator[Case]:
    """Heads of any size, also odd ones, and head_dim_v unlike head_dim."""
    for size in HEAD_DIMS:
        problem = AttentionProblem.of(50, num_heads=2, head_dim=size, dtype=dtype, causal=True)
        yield Case(f"head-dim-{size}", "head sizes", problem)
    for size, size_v in UNEQUAL_HEAD_DIMS:
        problem = AttentionProblem.of(50, head_dim=size, head_dim_v=size_v, dtype=dtype)
        yield Case(f"head-dim-{size}-v-{size_v}", "head sizes", problem)


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


_LAYOUTS: Mapping[str, Callable[[Array], Array]] = {
    "sequence-first": lambda x: x.swapaxes(1, 2).copy().swapaxes(1, 2),
    "batch-last": lambda x: np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2),
    "transposed": lambda x: x.swapaxes(2, 3).copy().swapaxes(2, 3),
    "every-other": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "backwards": lambda x: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "padded-rows": lambda x: np.concatenate([x, x], axis=3)[..., : x.shape[3]],
    "one-row-repeated": lambda x: np.broadcast_to(x[:, :, :1], x.shape),
    "read-only": _read_only,
}


def layouts(dtype: Dtype) -> Iterator[Case]:
    """Inputs that are not contiguous, whose rows share memory, or that are read-only."""
    problem = AttentionProblem.of(
        51, seqlen_k=70, batch=2, num_heads=4, num_kv_heads=2, head_dim=36, dtype=dtype, causal=True
    )
    for name, layout in _LAYOUTS.items():

        def place(inputs: Inputs, layout: Callable[[Array], Array] = layout) -> Inputs:
            return Inputs(*map(layout, inputs))

        yield Case(f"layout-{name}", "layouts", problem, layout=place)
