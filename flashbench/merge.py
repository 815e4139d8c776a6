"""One attention out of several over disjoint sets of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flashbench.arguments.arrays import as_array, check_dtype, check_same_dtype
from flashbench.engines import Array
from flashbench.errors import AttentionError
from flashbench.functional import AttentionOutput


def merge_attention(o_parts: Any, lse_parts: Any) -> AttentionOutput:
    """What attention over all the keys would have given, from attentions over disjoint sets of them.

    o = sum of exp(lse_i - lse) * o_i with lse = log(sum of exp(lse_i)): Dao et al. 2023, "Flash-Decoding";
    Ye et al. 2025, "FlashInfer" (section 2.2). Exact but for rounding: everything is added up in float64
    and rounded once. The order of the parts changes the last bit at most; merged parts may be merged again.

    Args:
        o_parts: (..., seqlen, head_dim_v) each, as `attention` returned them: a list or tuple, or one
            array with the parts first. float64 or float32, all the same.
        lse_parts: (..., seqlen) each, in the same order.

    Returns:
        AttentionOutput in the shapes and dtype of one part. A row whose lse is -inf in a part sees no key
        there, and what o holds is ignored; where it is so in every part, o = 0 and lse = -inf. A NaN in o
        stays in its column, a NaN or +inf in lse makes its row NaN, as in attention over all the keys.
        Parts with sinks: give the sinks to one of them only, since each adds them to its lse.

    Raises:
        AttentionError: no parts, not as many of o as of lse, or shapes or dtypes that differ.

    >>> from flashbench import attention
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 1, 8, 4))
    >>> parts = [attention(q, k[:, a], v[:, a], engine="numpy", return_lse=True) for a in np.s_[:3, 3:]]
    >>> merged = merge_attention(*zip(*parts))
    >>> bool(np.allclose(merged.o, attention(q, k, v, engine="numpy"), atol=1e-15))
    True
    """
    o_arrays, lse_arrays = _parts("o_parts", o_parts), _parts("lse_parts", lse_parts)
    _check(o_arrays, lse_arrays)
    dtype = o_arrays[0].dtype
    with np.errstate(all="ignore"):  # NaN and infinity are answers here
        lse = np.stack(lse_arrays).astype(np.float64, copy=False)
        row_max = lse.max(axis=0)
        seen = row_max != -np.inf
        weights = np.where(seen, np.exp(lse - row_max), 0.0)
        total = weights.sum(axis=0)
        weights /= np.where(seen, total, 1.0)
        o = np.zeros(o_arrays[0].shape)
        for part, of_rows, weight in zip(o_arrays, lse, weights, strict=True):
            # A part that sees no key counts for nothing, even where its o is NaN. A weight that is merely too
            # small for a number hides no NaN.
            o += np.where((of_rows == -np.inf)[..., np.newaxis], 0.0, weight[..., np.newaxis] * part)
        merged = np.where(seen, row_max + np.log(total), -np.inf)
    return AttentionOutput(o.astype(dtype, copy=False), merged.astype(dtype, copy=False))


def _parts(name: str, parts: Any) -> Sequence[Array]:
    """Each part as an array, whichever way they come."""
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


def _check(o_parts: Sequence[Array], lse_parts: Sequence[Array]) -> None:
    if len(o_parts) != len(lse_parts):
        raise AttentionError(
            f"o_parts and lse_parts must be of as many parts, not {len(o_parts)} and {len(lse_parts)}"
        )
    first = o_parts[0]
    check_dtype("o_parts[0]", first)
    if first.ndim < 2:
        raise AttentionError(f"o_parts[0] must have shape (..., seqlen, head_dim_v), not {first.shape}")
    for name, arrays, shape in (
        ("o_parts", o_parts, first.shape),
        ("lse_parts", lse_parts, first.shape[:-1]),
    ):
        for i, x in enumerate(arrays):
            check_same_dtype(f"{name}[{i}]", x, "o_parts[0]", first.dtype)
            if x.shape != shape:
                raise AttentionError(
                    f"{name}[{i}] must have shape {shape}, as o_parts[0] has {first.shape}, not {x.shape}"
                )
