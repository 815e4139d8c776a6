"""The `Features` struct of a call: switches, numbers and addresses of arrays, from a problem's features."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, is_half
from flashbench.engines import Array
from flashbench.engines.launch import address_of
from flashbench.extras import Extras
from flashbench.kernels.call.masks import BLOCK_MASK, BOOL_MASK, FLOAT_MASK
from flashbench.kernels.call.structs import Features
from flashbench.kernels.call.visibility import NO_LIMIT
from flashbench.kernels.maths.exp2 import LOG2E
from flashbench.problem import AttentionProblem


def limited(problem: AttentionProblem) -> bool:
    """Whether causality or a window makes the visible keys differ between queries."""
    return problem.window != (None, None)


def call_features(problem: AttentionProblem, extras: Extras) -> tuple[Features, tuple[Any, ...]]:
    """(features, arrays): the `Features` struct, and its arrays, which must live until the call ends."""
    fields, arrays = array_fields(problem, extras)
    return switches(problem)._replace(**fields), arrays


def has_arrays(problem: AttentionProblem) -> bool:
    """Whether `array_fields` finds any field."""
    return problem.alibi or problem.sinks or problem.mask is not None


def array_fields(problem: AttentionProblem, extras: Extras) -> tuple[dict[str, int], tuple[Any, ...]]:
    """(fields, arrays): the fields of `Features` that tell of arrays, by name, and these arrays.

    They must live until the call ends.
    """
    fields: dict[str, int] = {}
    arrays: list[Any] = []
    if problem.alibi:
        assert extras.alibi_slopes is not None
        slopes = extras.alibi_slopes
        arrays.append(slopes)
        batch, head = slopes.strides
        fields |= {"slopes": address_of(slopes), "slopes_batch": batch, "slopes_head": head}
    if problem.sinks:
        assert extras.sinks is not None
        arrays.append(extras.sinks)
        fields |= {"sink_logits": address_of(extras.sinks), "sinks_head": extras.sinks.strides[0]}
    if isinstance(extras.mask, BlockMask):
        arrays.append(extras.mask)
        fields |= _block_mask_fields(problem, extras.mask)
    elif extras.mask is not None:
        mask = _whole_strides(extras.mask)
        arrays.append(mask)
        fields |= _dense_mask_fields(mask)
    return fields, tuple(arrays)


_OFF = Features(*(0 for _ in Features._fields))


@functools.lru_cache(maxsize=1024)  # used by every call
def switches(problem: AttentionProblem) -> Features:
    """The features that need no array."""
    left, right = problem.window
    softcap = problem.softcap
    return _OFF._replace(
        q_factor=problem.scale * LOG2E if softcap is None else problem.scale / softcap,
        scale=problem.scale,
        cap=0.0 if softcap is None else softcap * LOG2E,
        keep_factor=1.0 / (1.0 - problem.dropout),
        left=NO_LIMIT if left is None else left,
        right=NO_LIMIT if right is None else right,
        alibi=int(problem.alibi),
        sinks=int(problem.sinks),
        dropout=int(problem.dropout > 0),
        seed=int(np.uint64(problem.dropout_seed).astype(np.int64)),  # the same 64 bits, signed
        threshold=min(round(problem.dropout * 2**32), 2**32 - 1),
    )


def _block_mask_fields(problem: AttentionProblem, mask: BlockMask) -> dict[str, int]:
    sizes = problem.mask_block_q, problem.mask_block_k
    if (mask.block_q, mask.block_k) != sizes:  # the plan of the tiles uses the problem's sizes
        raise ValueError(f"blocks of the mask are {mask.block_q} x {mask.block_k}, the problem's {sizes}")
    batch, heads, _ = mask.row_starts.strides
    batches, num_heads = mask.shape[:2]
    return {
        "mask": BLOCK_MASK,
        "mask_at": address_of(mask.partial),
        "mask_row": mask.block_k,
        "mask_key": 1,
        "mask_size": 1,
        "starts": address_of(mask.row_starts),
        "mask_batch": batch if batches > 1 else 0,
        "mask_head": heads if num_heads > 1 else 0,
        "columns": address_of(mask.columns),
        "parts": address_of(mask.parts),
        "mask_block_q": mask.block_q,
        "mask_block_k": mask.block_k,
    }


def _dense_mask_fields(mask: NDArray[Any]) -> dict[str, int]:
    batch, head, row, key = mask.strides
    return {
        "mask": BOOL_MASK if mask.dtype == np.bool_ else FLOAT_MASK,
        "mask_at": address_of(mask),
        "mask_batch": batch,
        "mask_head": head,
        "mask_row": row // mask.itemsize,
        "mask_key": key // mask.itemsize,
        "mask_size": mask.itemsize,
    }


def _whole_strides(mask: NDArray[Any]) -> NDArray[Any]:
    """The mask itself if it is aligned and its strides of rows and keys are whole elements, else a copy."""
    if mask.flags.aligned and all(stride % mask.itemsize == 0 for stride in mask.strides[2:]):
        return mask
    return mask.copy()


def sinks_gradient(
    problem: AttentionProblem, extras: Extras, do: Array, o: Array, lse: Array
) -> Array | None:
    """dsinks, (num_heads,): minus the sum over rows of p_sink * delta. None without sinks.

    A sink is a key with value 0: dp = 0, so ds = p * (0 - delta).
    """
    if not problem.sinks:
        return None
    assert extras.sinks is not None
    with np.errstate(all="ignore"):  # NaN and infinity are valid results
        delta = _delta(problem, do, o)
        weight = np.exp(extras.sinks[:, np.newaxis] - lse)
        weight[:, np.isneginf(extras.sinks)] = 0.0  # -inf: the head has no sink
        gradient: Array = -np.einsum("bhq,bhq->h", weight, delta)
    return gradient


def _delta(problem: AttentionProblem, do: Array, o: Array) -> Array:
    """The sum of do * o along each row, (batch, num_heads, seqlen_q); 0 for a row that sees no key."""
    if is_half(problem.dtype):  # some heads at a time: float32 copies of all would be as large as q
        view, step = DTYPES[problem.dtype].view, problem.num_kv_heads
        heads = [slice(first, first + step) for first in range(0, problem.num_heads, step)]
        return np.concatenate([_row_sums(view(do[:, some]), view(o[:, some])) for some in heads], axis=1)
    return _row_sums(do, o)


def _row_sums(do: Array, o: Array) -> Array:
    delta: Array = np.einsum("bhqd,bhqd->bhq", do, o)
    delta[~o.any(axis=-1)] = 0.0  # a row with no visible key, even if its do is NaN
    return delta
