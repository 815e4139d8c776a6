"""Attention in a 16-bit dtype as a framework computes it, operation by operation: each result is rounded.

flash-attention's tests measure an implementation against this (tests/test_flash_attn.py, "the numerical error
of a PyTorch implementation"). Sums inside an operation are float32, as in a framework's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from flashbench.dtypes import DTYPES
from flashbench.extras import Extras
from flashbench.philox import dropout_kept
from flashbench.problem import AttentionProblem, Inputs
from flashbench.reference import gather_pages
from helpers.feature_problems import visible_pairs

Round = Callable[[Any], np.ndarray]


class _Head(NamedTuple):
    """One query head of one sequence: its rows, its pairs, and where its results go."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    do: np.ndarray
    visible: np.ndarray
    bias: np.ndarray | None
    factor: np.ndarray | float  # dropout: 0, or 1 / (1 - dropout)
    sink: float
    b: int
    h: int
    queries: tuple[Any, ...]
    keys: tuple[Any, ...]


def naive_attention(problem: AttentionProblem, inputs: Inputs, extras: Extras) -> dict[str, np.ndarray]:
    """o, dq, dk, dv, dsinks and dmask as float32 arrays; gradients only without pages, all if they apply."""
    entry = DTYPES[problem.dtype]

    def rounded(numbers: Any) -> np.ndarray:
        return np.asarray(entry.view(entry.make(np.asarray(numbers, np.float32))))

    q, k, v, _ = inputs
    found = {"o": np.zeros((*problem.q_shape[:3], problem.head_dim_v), np.float32)}
    if problem.page_size is None:
        found |= {
            name: np.zeros(x.shape, np.float32) for name, x in zip(("dq", "dk", "dv"), (q, k, v), strict=True)
        }
        if problem.sinks:
            found["dsinks"] = np.zeros(problem.num_heads, np.float32)
        if problem.mask == "float":
            found["dmask"] = np.zeros(problem.mask_shape, np.float32)
    with np.errstate(all="ignore"):  # float16 may overflow, and rows without keys divide by 0
        for head in _heads(problem, inputs, extras):
            _add_head(problem, head, rounded, found)
    return found


def _heads(problem: AttentionProblem, inputs: Inputs, extras: Extras) -> Iterator[_Head]:
    q, k, v, do = (DTYPES[problem.dtype].view(x) for x in inputs)
    group = problem.num_heads // problem.num_kv_heads
    for b, (index, first_query, first_key, seqlen_q, seqlen_k) in enumerate(problem.sequences()):
        i, j = np.indices((seqlen_q, seqlen_k))
        for h in range(problem.num_heads):
            queries = (index, h, slice(first_query, first_query + seqlen_q))
            keys = (index, h // group, slice(first_key, first_key + seqlen_k))
            rows = [
                x[keys] if problem.page_size is None else _paged(extras, x, b, keys[1], seqlen_k)
                for x in (k, v)
            ]
            bias = None
            if problem.alibi:
                distance = np.abs(i + problem.diagonal_of(seqlen_q, seqlen_k) - j)
                bias = -np.float32(extras.alibi_slopes[b, h]) * distance
            if problem.mask == "float":
                mask = np.broadcast_to(
                    extras.mask, (problem.batch, problem.num_heads, *extras.mask.shape[2:])
                )
                bias = mask[b, h][i, j] + (0 if bias is None else bias)
            factor: Any = 1.0
            if problem.dropout:
                kept = dropout_kept(problem, b, h, np.arange(seqlen_q), np.arange(seqlen_k))
                factor = kept / np.float32(1 - problem.dropout)
            sink = float(extras.sinks[h]) if problem.sinks else -np.inf
            visible = visible_pairs(problem, extras, b, h)
            yield _Head(q[queries], *rows, do[queries], visible, bias, factor, sink, b, h, queries, keys)


def _paged(extras: Extras, x: np.ndarray, b: int, kv: int, seqlen_k: int) -> np.ndarray:
    return gather_pages(x[:, kv : kv + 1], extras.block_table[b], seqlen_k)[0]


def _add_head(problem: AttentionProblem, head: _Head, rounded: Round, found: dict[str, np.ndarray]) -> None:
    s = rounded(rounded(head.q @ head.k.T) * np.float32(problem.scale))
    tanh = np.zeros_like(s)
    if problem.softcap is not None:
        tanh = rounded(np.tanh(rounded(s / np.float32(problem.softcap))))
        s = rounded(tanh * np.float32(problem.softcap))
    if head.bias is not None:
        s = rounded(s + rounded(head.bias))
    s = np.where(head.visible, s, -np.inf)
    row_max = np.maximum(s.max(axis=1, keepdims=True, initial=-np.inf), head.sink)
    e = np.where(head.visible, np.exp(s - row_max), 0)
    total = e.sum(axis=1, keepdims=True) + np.exp(head.sink - row_max)
    seen = head.visible.any(axis=1, keepdims=True)
    p = np.where(seen, rounded(e / total), 0)
    dropped = rounded(p * head.factor)
    found["o"][head.queries] = rounded(dropped @ head.v)
    if problem.page_size is not None:
        return

    dp = rounded(rounded(head.do @ head.v.T) * head.factor)
    delta = np.sum(p * dp, axis=1, keepdims=True)
    ds = rounded(p * (dp - delta))
    if "dsinks" in found:
        share = np.where(seen, rounded(np.exp(head.sink - row_max) / total), 0)
        found["dsinks"][head.h] -= np.sum(rounded(share * delta))
    if "dmask" in found:
        axes = problem.mask_axes
        summed = ds.sum(axis=tuple(n for n, axis in enumerate("qk") if axis not in axes), keepdims=True)
        target = found["dmask"][head.b if "b" in axes else 0, head.h if "h" in axes else 0]
        target[: summed.shape[0], : summed.shape[1]] += summed
    if problem.softcap is not None:
        ds = rounded(ds * (1 - tanh * tanh))
    ds = rounded(ds * np.float32(problem.scale))
    found["dq"][head.queries] = rounded(ds @ head.k)
    for name, weights, rows in (("dk", ds, head.q), ("dv", dropped, head.do)):
        found[name][head.keys] = rounded(found[name][head.keys] + rounded(weights.T @ rows))
