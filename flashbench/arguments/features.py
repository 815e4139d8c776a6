"""Callers' masks, biases, sinks and dropout: the problem's fields for each, and its array."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flashbench.arguments.arrays import accumulator_dtype, as_accumulator, as_array, dtype_of, widened
from flashbench.arguments.values import as_count, as_scale
from flashbench.block_mask import BlockMask
from flashbench.dtypes import DTYPES, Dtype
from flashbench.engines import Array
from flashbench.errors import AttentionError
from flashbench.extras import Extras
from flashbench.problem import MaskKind, Window

_AXES = ("batch", "num_heads", "seqlen_q", "seqlen_k")
_NO_DROPOUT_SEED = 0


class Mask(NamedTuple):
    """A mask as the engine takes it, and its fields of the problem."""

    array: Any  # a 4-D view, or a BlockMask
    kind: MaskKind
    axes: str  # the axes of b, h, q, k along which it varies
    shape: tuple[int, ...]  # of the caller's array, and so of dmask


def as_window(window: Any) -> Window:
    """(left, right), each None or a whole number of keys from 0 up. Raises AttentionError."""
    if isinstance(window, (tuple, list)) and len(window) == 2:
        try:
            left, right = (as_count("window", side, least=0) for side in window)
        except AttentionError:
            pass  # the error below names both sides
        else:
            return left, right
    raise AttentionError(
        f"window must be (left, right), each None or a whole number from 0 up, not {window!r}",
        hint="None is no limit",
    )


def as_dropout(dropout: Any, seed: Any) -> tuple[float, int]:
    """(share to drop, seed); the seed is 0 if nothing is dropped. Raises AttentionError."""
    share = as_scale("dropout", dropout)
    if share is None:
        raise AttentionError("dropout must be a number, not None", hint="0.0 is no dropout")
    seed = as_count("dropout_seed", seed, least=0)
    if not share:
        return share, _NO_DROPOUT_SEED
    if seed is None:
        raise AttentionError(
            f"dropout ({share}) needs a dropout_seed: attention_backward has to drop the same pairs as the "
            "forward, and finds them by the seed alone",
            hint="dropout_seed=step, another whole number for each call",
        )
    return share, seed


def as_mask(mask: Any, full: tuple[int, int, int, int], dtype: Dtype, *, has_heads: bool) -> Mask:
    """A mask that broadcasts to `full` (batch, num_heads, seqlen_q, seqlen_k).

    It is copied only if it holds 16-bit numbers, which become float32.
    has_heads: False if q has no num_heads axis; the caller's mask then has none either.
    dtype: of q. A float mask must have it, or be in its accumulator. Raises AttentionError.
    """
    names = _AXES if has_heads else (_AXES[0], *_AXES[2:])
    target = full if has_heads else (full[0], *full[2:])
    if isinstance(mask, BlockMask):
        return _as_block_mask(mask, full)
    x = as_array("mask", mask)
    if x.dtype != np.bool_:
        x = _as_float_mask(x, dtype)
    own = (1,) * (len(target) - x.ndim) + x.shape
    fits = len(own) == len(target) and all(n in (1, m) for n, m in zip(own, target, strict=True))
    if not fits or not x.ndim:
        raise AttentionError(
            f"mask of shape {x.shape} does not broadcast to ({', '.join(names)}) = {target}",
            hint=None if x.ndim else "a mask of one value masks nothing or everything",
        )
    if not has_heads:
        own = (own[0], 1, *own[1:])
    view = np.broadcast_to(x.reshape(own), full)
    kind: MaskKind = "bool" if x.dtype == np.bool_ else "float"
    return Mask(view, kind, _axes(own), x.shape)


def as_slopes(slopes: Any, batch: int, num_heads: int, dtype: Dtype) -> Array:
    """ALiBi's slopes as a (batch, num_heads) view, in the accumulator of q's dtype. Raises AttentionError."""
    x = as_array("alibi_slopes", slopes)
    if dtype_of(x.dtype) == "bfloat16":
        x = widened(x, "bfloat16")
    if x.dtype.kind not in "fiu":
        raise AttentionError(f"alibi_slopes must be numbers, not {x.dtype}")
    if x.shape not in ((num_heads,), (batch, num_heads)):
        raise AttentionError(
            f"alibi_slopes must have shape (num_heads,) = {(num_heads,)} or (batch, num_heads) = "
            f"{(batch, num_heads)}, not {x.shape}"
        )
    with np.errstate(over="ignore"):  # isfinite finds overflow below
        x = x.astype(accumulator_dtype(dtype), copy=False)
    if not np.isfinite(x).all():
        raise AttentionError(f"alibi_slopes must be finite in {x.dtype}, not {x[~np.isfinite(x)][0]}")
    return np.broadcast_to(x, (batch, num_heads))


def as_sinks(sinks: Any, num_heads: int, dtype: Dtype) -> Array:
    """One logit per head, (num_heads,), in the accumulator of q's dtype. Raises AttentionError."""
    x = as_accumulator("sinks", as_array("sinks", sinks), "q", dtype)
    if x.shape != (num_heads,):
        raise AttentionError(f"sinks must have shape (num_heads,) = {(num_heads,)}, not {x.shape}")
    return x


def read_features(
    dtype: Dtype,
    full: tuple[int, int, int, int],
    *,
    has_heads: bool,
    window: Any,
    mask: Any,
    alibi_slopes: Any,
    softcap: Any,
    sinks: Any,
    dropout: Any,
    dropout_seed: Any,
) -> tuple[dict[str, Any], Extras, tuple[int, ...] | None]:
    """(fields of the problem, arrays beside q, k and v, shape of the caller's mask).

    dtype: of q. full: (batch, num_heads, seqlen_q, seqlen_k). Raises AttentionError.
    """
    batch, num_heads, _, _ = full
    left, right = as_window(window)
    share, seed = as_dropout(dropout, dropout_seed)
    fields: dict[str, Any] = {
        "window_left": left,
        "window_right": right,
        "softcap": as_scale("softcap", softcap),
        "alibi": alibi_slopes is not None,
        "sinks": sinks is not None,
        "dropout": share,
        "dropout_seed": seed,
    }
    extras = Extras(
        alibi_slopes=None if alibi_slopes is None else as_slopes(alibi_slopes, batch, num_heads, dtype),
        sinks=None if sinks is None else as_sinks(sinks, num_heads, dtype),
    )
    if mask is None:
        return fields, extras, None
    given = as_mask(mask, full, dtype, has_heads=has_heads)
    fields |= {"mask": given.kind, "mask_axes": given.axes}
    if isinstance(mask, BlockMask):
        fields |= {"mask_block_q": mask.block_q, "mask_block_k": mask.block_k}
    return fields, extras._replace(mask=given.array), given.shape


def _as_block_mask(mask: BlockMask, full: tuple[int, int, int, int]) -> Mask:
    batch, num_heads, *lengths = mask.shape
    if batch not in (1, full[0]) or num_heads not in (1, full[1]) or tuple(lengths) != full[2:]:
        raise AttentionError(
            f"mask is a BlockMask of shape {mask.shape}, which is not ({', '.join(_AXES)}) = {full}, nor 1 "
            "in place of batch or num_heads"
        )
    return Mask(mask, "block", _axes(mask.shape[:2]) + "qk", mask.shape)


def _as_float_mask(x: Array, dtype: Dtype) -> Array:
    if x.dtype.kind == "f" or dtype_of(x.dtype) is not None:
        return as_accumulator("mask", x, "q", dtype)
    accumulator = DTYPES[dtype].accumulator
    floats = f"{dtype} as q is" if accumulator == dtype else f"{accumulator} or {dtype}"
    raise AttentionError(
        f"mask must be bool (True = may attend) or {floats} (added to the scores), not {x.dtype}",
        hint="mask.astype(bool), if it holds 1 for what may be attended to",
    )


def _axes(own: tuple[int, ...]) -> str:
    """The axes of b, h, q, k along which a mask of this shape varies. own may have only the first axes."""
    return "".join(axis for axis, size in zip("bhqk", own, strict=False) if size > 1)
