"""What the kernels are told of a problem's optional features: switches, numbers and arrays' addresses."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.engines import Array
from flashbench.extras import Extras
from flashbench.kernels.call import features as places
from flashbench.problem import AttentionProblem

LOG2E = math.log2(math.e)


class KernelFeatures(NamedTuple):
    """`whole` and `numbers` as kernels/call/features.py has them; what they point to has to live as long."""

    whole: NDArray[np.int64]
    numbers: Array
    arrays: tuple[Any, ...]


FEATURE_BYTES = 8 * places.FEATURE_PLACES


def number_bytes(problem: AttentionProblem) -> int:
    return places.NUMBER_PLACES * problem.itemsize


def limited(problem: AttentionProblem) -> bool:
    """Whether causality or a window gives queries a first or an end key of their own."""
    return problem.window != (None, None)


def mask_shape(problem: AttentionProblem) -> tuple[int, int, int, int]:
    """The mask's own shape, 1 along the axes that it is broadcast along: that of its gradient."""
    sizes = (problem.batch, problem.num_heads, problem.seqlen_q, problem.seqlen_k)
    batch, heads, queries, keys = (
        size if axis in problem.mask_axes else 1 for axis, size in zip("bhqk", sizes, strict=True)
    )
    return batch, heads, queries, keys


def kernel_features(problem: AttentionProblem, extras: Extras) -> KernelFeatures:
    """For one call."""
    whole = np.zeros(places.FEATURE_PLACES, np.int64)
    numbers = np.zeros(places.NUMBER_PLACES, problem.dtype)
    arrays: list[Any] = []

    def place(array: NDArray[Any], at: int, *strides: int) -> None:
        arrays.append(array)
        whole[at] = array.__array_interface__["data"][0]
        whole[at + 1 : at + 1 + len(strides)] = strides

    left, right = problem.window
    whole[places.LEFT] = places.NO_LIMIT if left is None else left
    whole[places.RIGHT] = places.NO_LIMIT if right is None else right
    numbers[places.Q_FACTOR] = problem.scale * LOG2E
    if problem.softcap is not None:
        whole[places.SOFTCAP] = 1
        numbers[places.Q_FACTOR] = problem.scale / problem.softcap
        numbers[places.CAP] = problem.softcap * LOG2E
    if problem.alibi:
        assert extras.alibi_slopes is not None
        whole[places.ALIBI] = 1
        place(extras.alibi_slopes, places.SLOPES_AT, *extras.alibi_slopes.strides)
    if problem.sinks:
        assert extras.sinks is not None
        whole[places.SINKS] = 1
        place(extras.sinks, places.SINKS_AT, *extras.sinks.strides)
    numbers[places.KEEP_FACTOR] = 1.0 / (1.0 - problem.dropout)
    if problem.dropout > 0:
        whole[places.DROPOUT] = 1
        # The same 64 bits as a signed number.
        whole[places.SEED] = np.uint64(problem.dropout_seed).astype(np.int64)
        whole[places.THRESHOLD] = min(round(problem.dropout * 2**32), 2**32 - 1)
    if problem.page_size is not None:
        assert extras.block_table is not None
        whole[places.PAGE_SIZE] = problem.page_size
        table = np.ascontiguousarray(extras.block_table, np.int64)
        place(table, places.PAGES_AT, table.strides[0])
    if isinstance(extras.mask, BlockMask):
        mask = extras.mask
        sizes = problem.mask_block_q, problem.mask_block_k
        if (mask.block_q, mask.block_k) != sizes:  # what tiles were planned by
            raise ValueError(f"blocks of the mask are {mask.block_q} x {mask.block_k}, the problem's {sizes}")
        whole[places.MASK] = places.BLOCK_MASK
        batch, heads, _ = mask.row_starts.strides
        batches, num_heads = mask.shape[:2]
        strides = batch if batches > 1 else 0, heads if num_heads > 1 else 0
        place(mask.row_starts, places.STARTS_AT, *strides)
        place(mask.columns, places.COLUMNS_AT)
        place(mask.parts, places.PARTS_AT)
        place(mask.partial, places.MASK_AT)
        whole[places.MASK_ROW], whole[places.MASK_KEY], whole[places.MASK_SIZE] = mask.block_k, 1, 1
        whole[places.MASK_BLOCK_Q], whole[places.MASK_BLOCK_K] = mask.block_q, mask.block_k
    elif extras.mask is not None:
        dense = _whole_strides(extras.mask)
        whole[places.MASK] = places.BOOL_MASK if dense.dtype == np.bool_ else places.FLOAT_MASK
        batch, heads, row, key = dense.strides
        whole[places.MASK_SIZE] = dense.itemsize
        place(dense, places.MASK_AT, batch, heads, row // dense.itemsize, key // dense.itemsize)
    return KernelFeatures(whole, numbers, tuple(arrays))


def _whole_strides(mask: NDArray[Any]) -> NDArray[Any]:
    """The mask itself where its rows' and keys' strides are whole elements, else a copy."""
    if mask.flags.aligned and all(stride % mask.itemsize == 0 for stride in mask.strides[2:]):
        return mask
    return mask.copy()


def sinks_gradient(
    problem: AttentionProblem, extras: Extras, do: Array, o: Array, lse: Array
) -> Array | None:
    """dsinks: (num_heads,), minus the sum over rows of p_sink * delta; None without sinks.

    A sink is a key whose value is zero: dp = 0, so ds = p * (0 - delta).
    """
    if not problem.sinks:
        return None
    assert extras.sinks is not None
    with np.errstate(all="ignore"):  # NaN and infinity are answers here
        delta = np.einsum("bhqd,bhqd->bhq", do, o)
        delta[~o.any(axis=-1)] = 0.0  # a row that sees no key, whatever its do holds
        weight = np.exp(extras.sinks[:, np.newaxis] - lse)
        weight[:, np.isneginf(extras.sinks)] = 0.0  # no sink at all
        gradient: Array = -np.einsum("bhq,bhq->h", weight, delta)
    return gradient
