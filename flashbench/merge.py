"""Merge attentions over disjoint sets of keys into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashbench.arguments.arrays import (
    accumulator_dtype,
    as_accumulator,
    as_array,
    as_published,
    as_stored,
    check_dtype,
    check_same_dtype,
)
from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Array
from flashbench.errors import AttentionError
from flashbench.functional import AttentionOutput


def merge_attention(o_parts: Any, lse_parts: Any) -> AttentionOutput:
    """Attention over all keys, from attentions over disjoint sets of them.

    o = sum of exp(lse_i - lse) * o_i with lse = log(sum of exp(lse_i)): Dao et al. 2023, "Flash-Decoding";
    Ye et al. 2025, "FlashInfer" (section 2.2). Exact except for rounding: sums are float64 and are rounded
    at the end. The order of the parts changes at most the last bit. A result can be a part of another merge.

    Args:
        o_parts: (..., seqlen, head_dim_v) each, as `attention` returned them: a list or tuple, or one
            array with the parts as its first axis. All of one dtype.
        lse_parts: (..., seqlen) each, in the same order. Of that dtype; float32 for float16 and bfloat16.

    Returns:
        AttentionOutput in the shapes and dtype of one part. A row with lse = -inf in a part sees no key of
        that part, and its o there is ignored. If that holds in every part, o = 0 and lse = -inf. A NaN in o
        stays in its column. A NaN or +inf in lse makes the whole row NaN, as in attention over all keys.
        Sinks: pass them to the attention of one part only, as each part adds them to its lse.

    Raises:
        AttentionError: no parts, different numbers of o and lse, or shapes or dtypes that differ.

    >>> from flashbench import attention
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 1, 8, 4))
    >>> parts = [attention(q, k[:, a], v[:, a], engine="numpy", return_lse=True) for a in np.s_[:3, 3:]]
    >>> merged = merge_attention(*zip(*parts))
    >>> bool(np.allclose(merged.o, attention(q, k, v, engine="numpy"), atol=1e-15))
    True
    """
    o_arrays, lse_arrays = _parts("o_parts", o_parts), _parts("lse_parts", lse_parts)
    dtype = _check(o_arrays, lse_arrays)
    with np.errstate(all="ignore"):  # NaN and infinity are valid results here
        lse = np.stack(lse_arrays).astype(np.float64, copy=False)
        row_max = lse.max(axis=0)
        sees_keys = row_max != -np.inf
        weights = np.where(sees_keys, np.exp(lse - row_max), 0.0)
        total = weights.sum(axis=0)
        weights /= np.where(sees_keys, total, 1.0)
        o = np.zeros(o_arrays[0].shape)
        numbers = (DTYPES[dtype].view(as_stored(part, dtype)) for part in o_arrays)
        for part, of_rows, weight in zip(numbers, lse, weights, strict=True):
            # A row that sees no key of a part adds 0, even if its o is NaN. A weight that underflowed to 0
            # still passes NaN on: 0 * NaN is NaN.
            o += np.where((of_rows == -np.inf)[..., np.newaxis], 0.0, weight[..., np.newaxis] * part)
        merged = np.where(sees_keys, row_max + np.log(total), -np.inf)
        rounded = as_published(DTYPES[dtype].make(o), dtype)
    return AttentionOutput(rounded, merged.astype(accumulator_dtype(dtype), copy=False))


def _parts(name: str, parts: Any) -> Sequence[Array]:
    """The parts as arrays, from a list, a tuple or one stacked array. Raises AttentionError."""
    if isinstance(parts, (list, tuple)):
        arrays = [as_array(f"{name}[{i}]", part) for i, part in enumerate(parts)]
    else:
        stacked = as_array(name, parts)
        if not stacked.ndim:
            raise AttentionError(f"{name} must have the parts as its first axis, not shape ()")
        arrays = list(stacked)
    if not arrays:
        raise AttentionError(f"{name} must have at least one part")
    return arrays


def _check(o_parts: Sequence[Array], lse_parts: Sequence[Array]) -> Dtype:
    """The dtype of the parts of o. Raises AttentionError."""
    if len(o_parts) != len(lse_parts):
        raise AttentionError(
            f"o_parts and lse_parts must be of as many parts, not {len(o_parts)} and {len(lse_parts)}"
        )
    first = o_parts[0]
    dtype = check_dtype("o_parts[0]", first)
    if first.ndim < 2:
        raise AttentionError(f"o_parts[0] must have shape (..., seqlen, head_dim_v), not {first.shape}")
    for name, arrays, shape in (
        ("o_parts", o_parts, first.shape),
        ("lse_parts", lse_parts, first.shape[:-1]),
    ):
        for i, x in enumerate(arrays):
            if arrays is lse_parts:
                as_accumulator(f"{name}[{i}]", x, "o_parts[0]", dtype, only=True)
            else:
                check_same_dtype(f"{name}[{i}]", x, "o_parts[0]", dtype)
            if x.shape != shape:
                raise AttentionError(
                    f"{name}[{i}] must have shape {shape}, as o_parts[0] has {first.shape}, not {x.shape}"
                )
    return dtype
