"""Tensors as arrays and arrays as tensors, on the same memory. bfloat16 crosses as its bit patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from flashbench.arguments.bfloat16 import BFLOAT16
from flashbench.dtypes import DTYPES, NARROWEST_FIRST, listed
from flashbench.engines import Array
from flashbench.errors import AttentionError

KNOWN_DTYPES = listed(NARROWEST_FIRST, "and")
# PyTorch's dtypes that attention is computed in, each with the dtype of its scores, sums, lse and masks.
ACCUMULATORS: dict[torch.dtype, torch.dtype] = {
    getattr(torch, name): getattr(torch, entry.accumulator) for name, entry in DTYPES.items()
}
_PATTERNS = torch.uint16  # as engines store bfloat16, which NumPy does not have


def as_stored(name: str, x: Tensor) -> Array:
    """The tensor's memory as engines store its dtype.

    Two kinds of tensor are copied: those that are not aligned, and views that PyTorch negates at each read.
    Raises AttentionError.
    """
    plain = x.detach() if x.requires_grad else x
    try:
        found: Array = (plain.view(_PATTERNS) if x.dtype is torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError) as error:  # another dtype or device
        if x.is_neg():
            return as_stored(name, x.resolve_neg())
        what = f"{str(x.dtype).removeprefix('torch.')} on {x.device.type}"
        raise AttentionError(f"{name} must be a CPU tensor of {KNOWN_DTYPES}, not {what}") from error
    return found if found.flags.aligned else found.copy()


def as_argument(name: str, x: Tensor) -> Array:
    """The tensor's memory as `flashbench.arguments` takes it. Raises AttentionError, as `as_stored`."""
    found = as_stored(name, x)
    return found.view(BFLOAT16) if x.dtype is torch.bfloat16 else found


def as_tensor(x: Array, dtype: torch.dtype) -> Tensor:
    """An engine's array as a tensor of `dtype`, on the same memory."""
    found: Tensor = torch.from_numpy(x)
    return found.view(dtype) if dtype is torch.bfloat16 else found


def widened(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask of queries of `dtype` as engines take it: bool, or in the accumulator of `dtype`.

    Only numbers of another dtype are converted. Broadcast axes stay broadcast. Differentiable.
    """
    accumulator = ACCUMULATORS[dtype]
    if mask.dtype is torch.bool or mask.dtype is accumulator:
        return mask
    own = mask[tuple(slice(None if step else 1) for step in mask.stride())]
    return own.to(accumulator).expand(mask.shape)
