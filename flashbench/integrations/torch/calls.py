"""A checked engine call on tensors. What depends only on shapes is checked once and cached.

Nothing is copied: engines read the tensors' memory.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from flashbench.arguments import Call, prepare
from flashbench.dtypes import ACCUMULATORS, listed
from flashbench.engines import Array
from flashbench.errors import AttentionError
from flashbench.extras import NO_EXTRAS, Extras
from flashbench.integrations.torch.options import TENSORS, Options
from flashbench.integrations.torch.runtime import num_threads
from flashbench.problem import Direction

_Kind = tuple[torch.Size, torch.dtype]  # shape and dtype of a tensor


def call_of(direction: Direction, q: Tensor, k: Tensor, v: Tensor, given: Options) -> Call:
    """The call of these tensors. Raises AttentionError, UnsupportedError and EngineError."""
    mask = given.mask
    slopes, sinks, key_lengths, seed = given[1:TENSORS]
    if not (slopes is sinks is key_lengths is seed is None):
        # The call depends on the numbers in these tensors, not only on their shapes.
        return _prepared(direction, q, k, v, given, num_threads())
    known = _known(
        direction,
        (q.shape, q.dtype),
        (k.shape, k.dtype),
        (v.shape, v.dtype),
        None if mask is None else (mask.shape, mask.dtype),
        given[TENSORS:],
        num_threads(),
    )
    extras = NO_EXTRAS
    if mask is not None:
        p = known.problem
        extras = Extras(array("mask", mask.expand(p.batch, p.num_heads, p.seqlen_q, p.seqlen_k)))
    return Call(
        known.engine,
        known.problem,
        known.settings,
        array("q", q),
        array("k", k),
        array("v", v),
        known.layout,
        extras,
        known.mask_shape,
    )


def array(name: str, x: Tensor) -> Array:
    """The tensor's memory as an array.

    Two kinds of tensor are copied: those that are not aligned, and views that PyTorch negates at each read.
    Raises AttentionError.
    """
    try:
        found: Array = x.detach().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, another device
        if x.is_neg():
            return array(name, x.resolve_neg())
        known = listed(ACCUMULATORS, "or")
        what = f"{str(x.dtype).removeprefix('torch.')} on {x.device.type}"
        raise AttentionError(f"{name} must be a CPU tensor of {known}, not {what}") from error
    return found if found.flags.aligned else found.copy()


@functools.lru_cache(maxsize=1024)
def _known(
    direction: Direction,
    q: _Kind,
    k: _Kind,
    v: _Kind,
    mask: _Kind | None,
    rest: tuple[Any, ...],
    threads: int,
) -> Call:
    """The checked call of tensors with these shapes and dtypes, without their memory."""
    given = Options(None if mask is None else _like(mask), None, None, None, None, *rest)
    return _prepared(direction, _like(q), _like(k), _like(v), given, threads)


def _like(kind: _Kind) -> Tensor:
    shape, dtype = kind
    return torch.zeros((), dtype=dtype, device="cpu").expand(shape)  # the default device may be another


def _prepared(direction: Direction, q: Tensor, k: Tensor, v: Tensor, given: Options, threads: int) -> Call:
    options: dict[str, Any] = given._asdict()
    window = options.pop("window_left"), options.pop("window_right")
    seed = options.pop("dropout_seed")
    options = {name: array(name, x) if isinstance(x, Tensor) else x for name, x in options.items()}
    return prepare(
        direction,
        array("q", q),
        array("k", k),
        array("v", v),
        window=window,
        dropout_seed=None if seed is None else int(seed) % 2**64,
        num_threads=threads,
        **options,
    )
