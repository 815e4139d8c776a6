"""Turns each layout of q, k and v into the 4-D views and lengths that engines take."""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.arguments.arrays import as_whole_numbers, check_dtype, check_same_dtype, dtype_of
from flashbench.dtypes import Dtype
from flashbench.engines import Array
from flashbench.errors import AttentionError

# Axes of the caller's arrays: b(atch), h(eads), s(equence), d(imension of a head), t(otal rows).
ArgumentLayout = Literal["bhsd", "bsd", "thd"]
_FOUR_D = "(batch, num_heads, seqlen, head_dim)"
_THREE_D = "(batch, seqlen, head_dim)"


class Placed(NamedTuple):
    """q, k and v as 4-D views, and the place of each sequence in them."""

    layout: ArgumentLayout
    q: Array
    k: Array
    v: Array
    batch: int
    seqlen_q: int
    seqlen_k: int
    key_lengths: tuple[int, ...] | None = None
    query_lengths: tuple[int, ...] | None = None
    page_size: int | None = None
    block_table: NDArray[np.int64] | None = None


def inward(layout: ArgumentLayout, x: Array) -> Array:
    """The caller's array as a 4-D view for the engine (3-D for lse, which has no head_dim axis)."""
    if layout == "bhsd":
        return x
    if layout == "bsd":
        return np.expand_dims(x, 1)
    return np.expand_dims(np.swapaxes(x, 0, 1) if x.ndim == 3 else x, 0)


def outward(layout: ArgumentLayout, x: Array) -> Array:
    """The engine's array in the caller's layout: the inverse of `inward`."""
    if layout == "bhsd":
        return x
    if layout == "bsd":
        return x[:, 0]
    return np.swapaxes(x[0], 0, 1) if x.ndim == 4 else x[0]


def place_batch(q: Array, k: Array, v: Array, key_lengths: Any) -> Placed:
    """4-D or 3-D arrays with a batch axis, every sequence its own entry. Raises AttentionError."""
    _check_dimensions(q, k, v)
    if k.shape[0] != q.shape[0] or k.shape[-1] != q.shape[-1]:
        raise AttentionError(
            f"k must have q's batch and head_dim, but has shape {k.shape} where q has {q.shape}"
        )
    _check_values(k, v, "batch, num_kv_heads and seqlen_k")
    layout: ArgumentLayout = "bhsd"
    if q.ndim == 3:
        layout = "bsd"
        q, k, v = q[:, None], k[:, None], v[:, None]
    batch, _, seqlen_q, _ = q.shape
    seqlen_k = k.shape[2]
    lengths = None if key_lengths is None else _as_key_lengths(key_lengths, batch, seqlen_k)
    return Placed(layout, q, k, v, batch, seqlen_q, seqlen_k, lengths)


def place_paged(q: Array, k: Array, v: Array, key_lengths: Any, block_table: Any) -> Placed:
    """Keys and values in pages; block_table (batch, pages) names each sequence's. Raises AttentionError."""
    _check_dimensions(q, k, v)
    if key_lengths is None:
        raise AttentionError(
            "block_table needs key_lengths: the table alone does not say how many keys are in the last page"
        )
    if k.shape[-1] != q.shape[-1]:
        raise AttentionError(f"k must have q's head_dim, but has shape {k.shape} where q has {q.shape}")
    _check_values(k, v, "pages, num_kv_heads and page_size")
    layout: ArgumentLayout = "bhsd"
    if q.ndim == 3:
        layout = "bsd"
        q, k, v = q[:, None], k[:, None], v[:, None]
    batch, _, seqlen_q, _ = q.shape
    pool, _, page_size, _ = k.shape
    table = as_whole_numbers("block_table", block_table)
    if table.ndim != 2 or len(table) != batch:
        raise AttentionError(f"block_table must have shape (batch = {batch}, pages), not {table.shape}")
    lengths = _as_key_lengths(key_lengths, batch, table.shape[1] * page_size)
    seqlen_k = max(1, *lengths)
    used = np.arange(-(-seqlen_k // page_size)) < -(-np.array(lengths)[:, None] // page_size)
    # Entries after a sequence's last page may be anything, such as -1. Engines see page 0 there.
    pages = np.zeros(used.shape, np.int64)
    columns = min(used.shape[1], table.shape[1])
    np.copyto(pages[:, :columns], table[:, :columns], where=used[:, :columns], casting="unsafe")
    wrong = (pages < 0) | (pages >= pool)
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise AttentionError(
            f"block_table must name pages from 0 to {pool - 1}, as k has {pool}, not {table[row, column]} "
            f"(page {column} of sequence {row})"
        )
    return Placed(layout, q, k, v, batch, seqlen_q, seqlen_k, lengths, page_size=page_size, block_table=pages)


def place_packed(q: Array, k: Array, v: Array, cu_seqlens_q: Any, cu_seqlens_k: Any) -> Placed:
    """Sequences end to end: q is (total, num_heads, head_dim), k and v likewise. Raises AttentionError."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 3:
            raise AttentionError(f"{name} must be 3-D (total, num_heads, head_dim), but has shape {x.shape}")
        if x.size == 0:
            raise AttentionError(f"{name} must not be empty, but has shape {x.shape}")
    if k.shape[-1] != q.shape[-1]:
        raise AttentionError(f"k must have q's head_dim, but has shape {k.shape} where q has {q.shape}")
    _check_values(k, v, "total and num_kv_heads")
    query_lengths = _as_lengths_between("cu_seqlens_q", cu_seqlens_q, "q", len(q))
    key_lengths = _as_lengths_between("cu_seqlens_k", cu_seqlens_k, "k", len(k))
    if len(query_lengths) != len(key_lengths):
        raise AttentionError(
            "cu_seqlens_q and cu_seqlens_k must be of the same number of sequences, not "
            f"{len(query_lengths)} and {len(key_lengths)}"
        )
    return Placed(
        "thd",
        inward("thd", q),
        inward("thd", k),
        inward("thd", v),
        batch=len(query_lengths),
        seqlen_q=max(1, *query_lengths),
        seqlen_k=max(1, *key_lengths),
        key_lengths=key_lengths,
        query_lengths=query_lengths,
    )


def check_dtypes(q: Array, k: Array, v: Array) -> Dtype:
    """The one dtype of q, k and v. Raises AttentionError."""
    dtype = dtype_of(q.dtype)
    if dtype is None or k.dtype != q.dtype or v.dtype != q.dtype:
        dtype = check_dtype("q", q)
        check_same_dtype("k", k, "q", dtype)
        check_same_dtype("v", v, "q", dtype)
    return dtype


def _check_dimensions(q: Array, k: Array, v: Array) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != q.ndim or x.ndim not in (3, 4):
            raise AttentionError(
                f"q, k and v must all be 4-D {_FOUR_D} or all 3-D {_THREE_D}; {name} has shape {x.shape}"
                + (f", q {q.shape}" if name != "q" else "")
            )
        if x.size == 0:
            raise AttentionError(f"{name} must not be empty, but has shape {x.shape}")


def _check_values(k: Array, v: Array, axes: str) -> None:
    if v.shape[:-1] != k.shape[:-1]:
        raise AttentionError(f"v must have k's {axes}, but has shape {v.shape} where k has {k.shape}")


def _as_key_lengths(value: Any, batch: int, most: int) -> tuple[int, ...]:
    lengths = as_whole_numbers("key_lengths", value)
    if lengths.shape != (batch,):
        raise AttentionError(
            f"key_lengths must have a length for each sequence, shape ({batch},), not {lengths.shape}"
        )
    found: tuple[int, ...] = tuple(lengths.tolist())
    for sequence, length in enumerate(found):
        if not 0 <= length <= most:
            raise AttentionError(f"key_lengths must be from 0 to {most}, not {length} (sequence {sequence})")
    return found


def _as_lengths_between(name: str, value: Any, array: str, total: int) -> tuple[int, ...]:
    """Sequence lengths from cumulative lengths. array and total: the array that they divide, and its rows."""
    bounds = as_whole_numbers(name, value)
    if bounds.ndim != 1 or len(bounds) < 2:
        raise AttentionError(f"{name} must have shape (sequences + 1,), 2 at least, not {bounds.shape}")
    ends: list[int] = bounds.tolist()
    if ends[0] != 0 or ends[-1] != total:
        raise AttentionError(
            f"{name} must go from 0 to the {total} rows of {array}, not from {ends[0]} to {ends[-1]}"
        )
    lengths = tuple(end - start for start, end in itertools.pairwise(ends))
    for sequence, length in enumerate(lengths):
        if length < 0:
            raise AttentionError(
                f"{name} must ascend, but goes from {ends[sequence]} to {ends[sequence + 1]} "
                f"(sequence {sequence})"
            )
    return lengths
